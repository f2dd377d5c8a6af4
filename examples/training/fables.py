"""A small story grammar: short, complete, gentle fables about a given noun.

Old books are long, and a piece cut out of a chapter seldom begins and ends as
a story does.  These fables show the model that shape.  A plot is a list of
beats, a beat a list of ways to tell it; a seed decides everything.
"""

import re

NAMES = {
    "he": "Tom Ned Pip Sam Hugo Otto Finn Ben Leo Max Toby Jack Oscar Felix Bruno Rufus Milo Jonas".split(),
    "she": "Anna Lily Molly Ada Rosa Ella Nora Ruby Tilly Clara Mina Polly Hazel Ivy Greta Susie Emma Dora".split(),
}

ANIMALS = (
    "fox rabbit bear mouse owl frog squirrel hedgehog badger duck goose hen cat dog pig goat lamb sheep "
    "donkey pony horse cow wolf lion elephant monkey tiger turtle tortoise beaver otter crow robin sparrow "
    "swan deer mole kitten puppy camel parrot peacock bee ant snail butterfly hare rooster crab whale seal "
    "penguin toad lizard spider cricket chipmunk raccoon calf duckling chick"
).split()
PEOPLE = (
    "boy girl king queen prince princess farmer miller baker shepherd fisherman sailor tailor shoemaker "
    "woodcutter grandmother grandfather knight fairy elf dwarf wizard gardener clockmaker giant dragon "
    "painter postman captain doctor teacher soldier merchant"
).split()
THINGS = (
    "lantern kite drum bell ring hat button key basket book ball spoon blanket scarf whistle coin flute "
    "umbrella cap feather shell mirror pot crown mitten violin clock box doll wheelbarrow cake pie teapot "
    "candle map letter horn ribbon cup bucket sled toy hammer broom lamp"
).split()
# Plots that want a thing of one kind.
FITTING = {
    "music is better when everybody plays": "drum bell whistle flute violin horn fiddle trumpet harp".split(),
    "snow is best when there is someone to throw it at": "hat cap scarf crown mitten bucket pot ribbon".split(),
}
# Things that are alive in a fairy tale.
WONDERS = (
    "boat ship train wagon star moon cloud snowman snowflake raindrop tree leaf acorn pumpkin apple flower rose "
    "scarecrow lighthouse windmill bridge house engine raft wheel stone river wind doll clock teapot lantern kite "
    "drum bell umbrella toy candle"
).split()
MORE_HEROES = (
    "mermaid goblin troll clown eagle dove pigeon snake turkey zebra giraffe bird emperor policeman sister brother "
    "mother father uncle aunt child baby pirate piper juggler weaver fish bat moth ladybug caterpillar "
    "grasshopper kangaroo hippo leopard panda koala llama ostrich pelican stork magpie woodpecker jackdaw ox mule "
    "weasel mink muskrat porcupine skunk woodchuck squid octopus dolphin shark starfish firefly dragonfly"
).split()
# What a fable may also be said to be about, where its text has the word.
SCENES = (
    "storm snow rain race seed birthday cake star journey bridge boat house dark fire net "
    "prize fair moon stone promise music song sea light night cookies pancake wish apple riddle shop dam attic gold snowman tree flower door road fog "
    "surprise picnic supper summer winter spring autumn stars laugh penny basket market"
).split()
PLACES = {
    "forest": "at the edge of a green forest", "wood": "in a quiet wood", "meadow": "beside a sunny meadow",
    "mountain": "at the foot of a tall mountain", "hill": "on a round green hill", "river": "near a wide river",
    "sea": "close to the blue sea", "village": "in a small village", "castle": "beside an old stone castle",
    "garden": "in a garden full of flowers", "farm": "on a little farm", "island": "on a small island",
    "pond": "by a still pond", "lake": "on the shore of a lake", "mill": "next to an old mill",
    "valley": "in a deep valley", "town": "in a busy little town", "orchard": "in an apple orchard",
    "house": "in a crooked little house", "tree": "under a great old tree", "bridge": "beside a wooden bridge",
    "cave": "near the mouth of a cave", "lighthouse": "beside a tall white lighthouse", "barn": "behind a red barn",
}
FEMALE = {"girl", "queen", "princess", "grandmother", "hen", "cow", "fairy", "duckling"}
MALE = {"boy", "king", "prince", "grandfather", "fisherman", "knight", "wizard", "rooster", "dwarf", "postman"}

OPENING = [
    "Once upon a time there was a {adj} {hero} named {name}, who lived {where}.",
    "Long ago a {adj} {hero} named {name} lived {where}.",
    "{Where} there lived a {adj} {hero}, and {his} name was {name}.",
    "There was once a {adj} {hero} called {name}. {He} lived {where}.",
    "Far away, {where}, lived a {adj} {hero} whose name was {name}.",
    "Once there was a {adj} {hero}. {His} name was {name}, and {he} lived {where}.",
    "Have you ever heard of {name}, the {adj} {hero}? {He} lived {where}.",
    "Not so very long ago, {where}, there was a {adj} {hero} by the name of {name}.",
    "In the days when the hills were young, a {adj} {hero} named {name} lived {where}.",
]
HABIT = [
    "Every morning {he} swept the step, opened the window, and said good day to the sun.",
    "{He} liked warm bread, long walks, and the sound of rain on the roof.",
    "Everyone who passed by would stop and call, \"Good morning, {name}!\"",
    "{He} was not very big and not very brave, but {he} had a kind heart.",
    "{He} knew every path and every stone for a mile around.",
    "{He} had a red door, a round window, and a chair that creaked.",
    "{He} liked to hum while {he} worked, and to whistle while {he} walked.",
    "People said that there was no better neighbor far and wide.",
    "{His} pockets were always full of string and crumbs and other useful things.",
    "On Sundays {he} baked pancakes, and the whole street could smell them.",
    "{He} was fond of jokes, even of the very old ones.",
    "When it rained, {he} counted the drops on the window, and {he} never came to the end.",
    "", "", "",
]
CLOSING = [
    "And from that day on, {name} and {fname} were the best of friends.",
    "And if they have not moved away, they are living there still.",
    "That night {name} fell asleep with a smile, and the moon looked in at the window.",
    "And that is how the {hero} learned that {moral}.",
    "Ever after, when anyone asked, {name} would say that {moral}.",
    "They laughed about it for many a year, and so may you.",
    "And when the wind is right, you can still hear them laughing.",
    "\"Good night,\" said {fname}. \"Good night,\" said {name}. And then it was quiet.",
    "So it was, and so it is still.",
    "And whoever does not believe it may go and ask them.",
    "As for the rest of the day, they spent it doing nothing at all.",
    "\"Well,\" said {name}, \"now I know that {moral}.\" And {he} never forgot it.",
]

# Each plot: the moral, then the beats.  A beat that begins with "/" opens a paragraph.
PLOTS = [
    ("a friend who helps is worth more than any treasure", [
        ["/{name} had one thing that {he} loved above all others. It was {a_thing} that had belonged to {his} grandmother.",
         "/The thing {he} liked best in the world was {a_thing}, and {he} carried it wherever {he} went.",
         "/On {his} last birthday {he} had been given {a_thing}, and {he} was very proud of it."],
        ["One windy morning the {thing} was gone.", "But one day, when {he} woke up, the {thing} was nowhere to be seen.",
         "Then one evening {he} looked for the {thing}, and it was not there."],
        ["{He} looked under the bed, behind the door, and even in the teapot, but it was no use.",
         "{He} searched high and low. {He} turned out every drawer and shook every rug.",
         "{He} looked in all the places where it ought to be, and then in all the places where it ought not."],
        ["/\"Have you seen my {thing}?\" {he} asked a {friend} named {fname}, who was walking by.",
         "/Just then a {friend} named {fname} came along the path. \"Please,\" said {name}, \"have you seen my {thing}?\""],
        ["\"No,\" said the {friend}, \"but four eyes are better than two. I will help you look.\"",
         "\"I have not,\" said {fname}, \"but I am good at finding things. Let us go together.\""],
        ["/So off they went. They asked the wind, and the wind only whistled. They asked the brook, and the brook only laughed.",
         "/They walked all day. They looked in the long grass and among the roots of the trees.",
         "/Together they went back along every path that {name} had taken the day before."],
        ["At last {fname} saw something shining in the grass. It was the {thing}!",
         "At last, just as the sun was going down, {fname} gave a shout. There lay the {thing}, safe and sound, under a leaf.",
         "And there, hanging on a low branch, they found the {thing}."],
        ["/{name} danced for joy. \"How can I thank you?\" {he} cried. \"Come to supper,\" said {fname}, \"and bring the {thing} with you.\"",
         "/\"You found it!\" cried {name}. \"I was so busy being sad that I should never have seen it.\"",
         "/{name} was so happy that {he} hugged the {friend} twice. Then they went home and had hot soup and a great deal of cake."],
    ]),
    ("nobody is too small to be of help", [
        ["/One hot day a very small {friend} named {fname} fell into the water and could not get out.",
         "/One day {name} heard a thin little voice calling for help. It was a tiny {friend} named {fname}, caught under a fallen branch.",
         "/One afternoon {he} found a little {friend} named {fname} tangled in the brambles."],
        ["\"Please help me,\" said the {friend}. \"I am small now, but one day I will help you too.\"",
         "\"Please set me free,\" cried the {friend}, \"and I shall not forget it.\""],
        ["{name} laughed, for how could such a little creature ever help {him}? But {he} was kind, and in a moment the {friend} was free.",
         "\"You are too little to help anyone,\" said {name} with a smile. Still, {he} lifted the {friend} out as gently as {he} could."],
        ["/Not long after, a great storm blew, and a heavy gate fell shut and would not open. {name} pushed and pulled, but {he} was shut in.",
         "/That very week {name} was walking in the dark, and {he} stepped into a deep hole. {He} jumped and jumped, but {he} could not get out.",
         "/When autumn came, {name} caught {his} foot in an old net that somebody had left in the grass. The more {he} pulled, the tighter it grew."],
        ["{He} called and called, but nobody came.", "\"What shall I do?\" {he} said. \"Nobody can hear me.\""],
        ["/But the little {friend} heard. \"Do not be afraid,\" said {fname}. \"I am small enough to go where others cannot.\"",
         "/Then there was a rustle in the leaves, and out came the {friend}. \"Here I am,\" said {fname}. \"I promised, you know.\""],
        ["And {fname} ran to tell the whole neighborhood, and they came with ropes and ladders, and soon {name} was safe.",
         "{fname} worked all night long, a little here and a little there, and when the morning came {name} was free."],
        ["/{name} looked at the {friend} for a long while. \"I was wrong to laugh,\" {he} said. \"You are the biggest friend I have.\"",
         "/\"Thank you,\" said {name}, and {he} made a deep bow, just as one does before a king."],
    ]),
    ("slow and steady feet come to the end of every road", [
        ["/Now {name} could run faster than anyone else, and {he} talked about it from morning till night.",
         "/{name} was very quick, and very proud of it. \"Nobody can beat me,\" {he} used to say."],
        ["One day an old {friend} named {fname} said quietly, \"I will race you to the {place}.\"",
         "\"Is that so?\" said a {friend} named {fname}. \"Then let us race to the {place} and back, and the winner shall have {a_thing}.\""],
        ["Everybody laughed, and {name} laughed loudest of all.", "{name} laughed until {he} had to sit down. \"You!\" {he} cried. \"Why, you are the slowest of us all!\""],
        ["/The next morning they all came to see the race. \"One, two, three, go!\" called the owl, and away they went.",
         "/So the next day they stood side by side. A crow dropped a leaf, and the race began."],
        ["{name} was soon so far ahead that {he} could not even see the {friend}. \"I have plenty of time,\" {he} thought, and {he} stopped to pick berries.",
         "{name} flew along like the wind. But the day was warm, and halfway there {he} lay down in the shade to rest."],
        ["Then {he} chased a butterfly, and then {he} took a little nap.", "The bees hummed, the grass was soft, and before long {he} was fast asleep."],
        ["/Step by step came {fname}. {fname} did not stop to look at the berries, and did not stop to rest.",
         "/All this while {fname} went on, one foot after the other, and never once looked back."],
        ["When {name} woke up, the sun was low. {He} ran as {he} had never run before, but it was too late. The {friend} was already there.",
         "At last {name} opened {his} eyes and jumped up. But from far away {he} heard them all cheering. The {friend} had won!"],
        ["/\"How did you do it?\" asked {name}. \"I only kept on,\" said {fname}, and gave {him} half of the prize.",
         "/{name} hung {his} head, but {fname} was kind. \"You run better than I do,\" said the {friend}. \"Tomorrow you may teach me, and I will teach you how to keep on.\""],
    ]),
    ("a warm fire is warmer when it is shared", [
        ["/One winter night the snow fell so fast that {he} could not see the gate.",
         "/It was the coldest night of the year. The wind cried in the chimney, and the snow lay deep on the sill.",
         "/One night there came a terrible storm, with thunder and rain."],
        ["{name} sat by the fire with a bowl of soup, and was glad to be indoors.",
         "{name} had just put the last log on the fire when {he} heard something."],
        ["Tap, tap, tap! Somebody was at the door.", "There was a knock at the door, a very small and tired one."],
        ["/It was a {friend}, wet and cold. \"My name is {fname},\" said the {friend}. \"I have lost my way. May I come in?\"",
         "/\"Who is there?\" asked {name}. \"Only a poor {friend},\" said a voice. \"My name is {fname}, and I have no place to sleep.\""],
        ["{name} looked at the soup, and there was very little of it. {He} looked at the bed, and it was very narrow. But {he} opened the door wide.",
         "Now {name} did not like strangers, but {he} liked even less to think of anyone out in the cold. \"Come in, come in,\" {he} said."],
        ["They divided the soup into two bowls, and somehow there was enough.",
         "{He} gave {fname} a dry blanket and half of {his} bread, and they sat close to the fire."],
        ["/Then {fname} began to tell stories, one better than another, and {name} forgot the storm altogether.",
         "/After supper {fname} took out {a_thing} and told how it had come from the other side of the sea. {name} had never heard such a tale."],
        ["In the morning the sky was blue. \"I must go,\" said the {friend}, \"but I leave you this {thing}, so that you will think of me.\"",
         "When morning came, the whole world was white and still. \"Must you go?\" asked {name}. \"Not if you would like me to stay,\" said {fname}."],
        ["/And {name} found that the house was not so cold as it had been before.", "/After that the little house was never lonely again."],
    ]),
    ("a thing is not so dark when you walk up to it", [
        ["/There was only one thing that {name} was afraid of, and that was the dark.",
         "/By day {name} was as bold as could be, but when the sun went down {he} hid under the blanket.",
         "/{name} was afraid of the {place}, for people said that something lived there."],
        ["One night {he} heard a strange sound outside. Whoo, it went. Whoo, whoo!",
         "One night, as {he} lay in bed, something went bump, bump, bump.",
         "One evening {he} saw a little light that moved up and down among the trees."],
        ["{His} heart beat fast. \"It is a monster,\" {he} thought, \"with big teeth and green eyes.\"",
         "{He} pulled the blanket over {his} ears. \"If I am very quiet,\" {he} thought, \"it will go away.\" But it did not go away."],
        ["/At last {he} took {a_thing} in one hand and a stick in the other, and opened the door just a little.",
         "/\"I cannot sleep for being afraid,\" said {name}, \"so I may as well go and see.\" And {he} took {his} {thing} and tiptoed out."],
        ["{He} took one step, and then another. The sound came nearer.", "It was very dark. {He} counted {his} steps, one, two, three, to keep up {his} courage."],
        ["And what do you think {he} saw? It was only a {friend}, sitting on a log and crying.",
         "Behind the bush sat a {friend}, shaking from head to foot."],
        ["/\"Please do not hurt me,\" said the {friend}, whose name was {fname}. \"I heard footsteps, and I thought you were a monster!\"",
         "/\"I am {fname},\" said the {friend}. \"I am afraid of the dark, and I have lost my way home.\""],
        ["Then {name} laughed, and {fname} laughed too, until the stars seemed to laugh with them.",
         "\"Why, you are just as frightened as I am!\" cried {name}, and all at once {he} was not afraid any more."],
        ["/They walked home hand in hand, and the dark was only the dark, soft and full of stars.",
         "/{name} showed {fname} the way home, and on the way back {he} sang the whole time."],
    ]),
    ("good things grow sweeter when they are divided", [
        ["/One autumn day {he} found the biggest apple that anyone had ever seen.",
         "/One day {he} baked a cake so fine that the smell of it went all over the {place}.",
         "/One summer {he} came upon a bush that was red with ripe berries."],
        ["\"This is all mine,\" said {name}, and {he} carried it home and locked the door.",
         "\"I shall not tell anybody,\" thought {name}. \"If I tell, there will be less for me.\""],
        ["/Soon there came a knock. It was a {friend} named {fname}. \"May I have a little taste?\" asked the {friend}.",
         "/By and by a {friend} named {fname} looked in at the window. \"What have you there?\" asked {fname}."],
        ["\"There is not enough,\" said {name}, and {he} shut the window.", "\"Nothing at all,\" said {name} with {his} mouth full."],
        ["So {he} ate and ate, all alone. {He} ate until {he} could not eat any more, and then {he} had such a pain that {he} had to lie down.",
         "{He} sat down to eat. But it is dull to eat with nobody to talk to, and after a while it did not taste so good."],
        ["/\"Oh, dear,\" said {name}. \"I wish that somebody were here.\"", "/The room was very quiet. {name} could hear the clock, and it seemed to say, all alone, all alone."],
        ["{He} got up, opened the door, and banged on a pan with {his} {thing}. \"Come, all of you!\" {he} called. \"There is plenty!\"",
         "So {he} went out to look for {fname}. \"I was not kind,\" {he} said. \"Please come and help me finish it.\""],
        ["/They came from near and far, and each one brought something, a loaf, a jug of milk, or {a_thing}. It was the merriest supper of the year.",
         "/{fname} came at once, and brought honey and nuts. They sat in the grass and ate, and everything tasted better than before."],
    ]),
    ("the best thing about a long journey is the way home", [
        ["/{name} had never been farther than the {place}, and {he} often wondered what lay beyond.",
         "/Every evening {he} looked at the far blue hills and wondered what was on the other side.",
         "/One night {he} saw a star fall, and {he} made up {his} mind to go and find it."],
        ["So one morning {he} put some bread and {a_thing} into a bag, and set out.", "\"I will go and see,\" {he} said, and {he} took {his} {thing} and started down the road."],
        ["/On the first day {he} met a {friend} named {fname}, sitting on a stone. \"Where are you going?\" asked the {friend}.",
         "/Before long {he} came upon a {friend} who was resting by the road. \"My name is {fname},\" said the {friend}. \"Where are you going so early?\""],
        ["\"To the end of the world,\" said {name}. \"Then I will come too,\" said {fname}, \"for I have never seen it.\"",
         "\"As far as the road goes,\" said {name}. \"That is a good way,\" said {fname}. \"Let me go with you.\""],
        ["/They crossed a river on a fallen tree. They climbed a hill so steep that they had to go on hands and knees.",
         "/They walked through rain and through sunshine. They slept under a hedge, and the crickets sang to them."],
        ["On the third day they came to the top of the last hill, and looked over. There was another valley, and in it a little house with smoke coming out of the chimney.",
         "At last the road came to the sea and stopped. They sat down and watched the waves come in, one after another."],
        ["/\"It looks very much like home,\" said {name}, and all at once {he} wished that {he} were there.",
         "/\"It is beautiful,\" said {name}, \"but it is a long way from supper.\""],
        ["So they turned around, and the way back seemed only half so long.", "\"Then let us go back,\" said {fname}, and they sang all the way."],
        ["/When {name} saw {his} own door again, {he} thought it the finest sight in all the world.",
         "/At home the kettle was soon singing, and {name} told everybody about the journey until it was time for bed."],
    ]),
    ("a seed needs sun and rain and a little waiting", [
        ["/One spring day an old {friend} named {fname} gave {him} a small brown seed.", "/One day {he} did a kindness to a {friend} named {fname}, and the {friend} gave {him} a seed no bigger than a crumb."],
        ["\"Plant it,\" said the {friend}, \"and you will have something better than gold.\"", "\"Take good care of it,\" said {fname}, \"and do not be in a hurry.\""],
        ["/{name} dug a hole, put in the seed, and watered it. Then {he} sat down to watch.", "/{name} planted the seed beside the {place} and gave it a whole bucket of water."],
        ["Nothing happened that day, and nothing happened the next.", "{He} looked in the morning, and {he} looked at noon, and {he} looked again at night. There was nothing but dirt."],
        ["\"It is a bad seed,\" said {name}, and {he} was going to dig it up.", "\"Grow!\" shouted {name}, but the seed did not grow any faster for that."],
        ["/\"Wait,\" said {fname}. \"It is busy where you cannot see it.\"", "/\"Does your bread bake while you shout at it?\" asked {fname}. \"Leave it alone, and let the sun do the work.\""],
        ["So {name} waited. {He} played with {his} {thing}, mended the fence, and tried not to look.", "So {name} went about {his} work. It rained for a week, and then the sun came out."],
        ["/Then one morning there was a tiny green leaf. The next day there were two.", "/One morning {he} opened the door, and there stood a little green shoot, as straight as a soldier."],
        ["By the end of summer it was a tree as tall as the roof, and under its branches there was room for everyone.", "Before the summer was over there was a flower as big as a plate, and all the bees came to visit."],
        ["/{name} and {fname} sat in the shade together and ate bread and honey.", "/\"You were right,\" said {name} to the {friend}. \"It was worth the waiting.\""],
    ]),
    ("a stranger is only a friend whom you have not met", [
        ["/One day a new neighbor came to the {place}. It was a {friend} named {fname}, and nobody had ever seen one there before.",
         "/One morning a {friend} named {fname} moved into the empty house across the way."],
        ["\"How odd,\" said one. \"How very strange,\" said another. And they all stayed away.", "The others looked over the fence and whispered, but nobody said good morning."],
        ["/{name} saw the {friend} sitting all alone on the step.", "/{name} watched from the window. {fname} ate alone, and walked alone, and sat alone when the stars came out."],
        ["\"I know what it is to be lonely,\" thought {name}. So {he} took {a_thing} for a present and went across the road.",
         "\"That will never do,\" said {name}. {He} wrapped up {a_thing}, put on {his} best hat, and knocked at the door."],
        ["/\"Good day,\" said {name}. \"I live over there. Would you like to play?\"", "/\"I have brought you something,\" said {name}. \"It is not much, but it is from all my heart.\""],
        ["The {friend}'s whole face lit up. \"I thought that nobody liked me,\" said {fname}.", "\"For me?\" said {fname}, and could hardly speak for joy."],
        ["/Now {fname} could do all sorts of things, make a whistle out of a reed, and tell the weather from the clouds.",
         "/It turned out that {fname} knew the best songs and the funniest riddles in the whole world."],
        ["One after another the others came to listen, and they were sorry that they had not come before.", "Soon there was such laughing that all the neighbors came to see what it was about."],
        ["/\"Why did we not say good morning on the very first day?\" they asked one another.", "/After that there was always an extra chair at every table, in case somebody new should come."],
    ]),
    ("if at first a thing falls down, you may build it up again", [
        ["/{name} wanted to build a boat. {He} had some boards, a hammer, and a great many nails.",
         "/{name} wanted to build a little bridge over the brook, so that nobody need get wet feet.",
         "/{name} made up {his} mind to build a house at the top of a tree."],
        ["{He} worked all Monday, and on Tuesday it fell to pieces.", "{He} worked from breakfast until supper, but when {he} stood upon it, crack, down it went."],
        ["\"It will never be any good,\" said a crow, and flew away laughing.", "\"You had better give it up,\" said a passing goose."],
        ["/{name} sat down on a stone and very nearly cried. Then a {friend} named {fname} came by.",
         "/\"Perhaps I had better,\" said {name} sadly. But just then along came a {friend} named {fname}."],
        ["\"What went wrong?\" asked the {friend}. Nobody had asked that before, so {name} had to think.", "\"Let me see,\" said the {friend}, and walked all around it twice. \"This end is too heavy, and that end is too light.\""],
        ["/They began again. This time they went slowly. They measured twice and cut once, and {fname} held the boards while {name} drove the nails.",
         "/\"We will try another way,\" said {name}. They tied it here with a rope, and propped it there with a pole, and hung {a_thing} on top for luck."],
        ["The second time it leaned to one side. They laughed, and took it down, and tried once more.", "It was not right the second time, nor yet the third. But each time it was a little better."],
        ["/And on Saturday it was done. It stood as firm as a rock, and even the crow came back to look.",
         "/At last, one fine evening, it held. {name} jumped up and down on it, and it did not so much as creak."],
        ["\"I knew that you could do it,\" said the crow. But {name} and {fname} only smiled at each other.", "They gave it a name, painted it blue, and had a picnic there that very day."],
    ]),
    ("a clever head is better than a loud voice", [
        ["/One day {name} met a hungry wolf on the road. \"I am going to eat you up,\" said the wolf.",
         "/One evening, on the way home, {name} came face to face with a big hungry wolf.",
         "/Now in that country there was a grumpy giant, who let nobody pass without paying."],
        ["{name} was very much afraid, but {he} did not show it.", "{His} knees shook, but {he} thought quickly."],
        ["/\"Of course,\" {he} said, \"but would you not like some sauce first? I know where there is a whole pot of it.\"",
         "/\"Before you do that,\" said {name} politely, \"perhaps you can settle a question. My friend the {friend} says that nobody can count all the stones in the brook.\""],
        ["\"Who says so?\" cried the other. \"I can do anything!\" And down he sat, and went to work.", "Now the greedy fellow was very vain. \"Show me,\" he said, \"and be quick about it.\""],
        ["/So {name} led him to the house of a {friend} named {fname}, and winked one eye. {fname} understood at once.",
         "/Meanwhile {name} ran to fetch a {friend} named {fname}. \"Bring {a_thing},\" {he} whispered, \"and make as much noise as you can.\""],
        ["Such a banging and a clanging there was! It sounded as if a whole army were coming over the hill.", "\"Boom!\" went {fname} with the {thing} from behind the wall. \"Boom, boom, boom!\""],
        ["The big fellow jumped up. \"What is that?\" he cried. \"That is only my little brother,\" said {name}. \"He is hungry too.\"",
         "\"Oh, my!\" cried the big fellow, and he did not wait to hear any more."],
        ["/Away he ran, over the hill and down the other side, and he never came back again.", "/He ran so fast that he left his hat behind, and {name} has it still."],
        ["{name} and {fname} laughed until they had to hold each other up.", "Then {name} and {fname} went home to supper, and they had two helpings each."],
    ]),
    ("a kind thought is the best present of all", [
        ["/It was {name}'s birthday, but nobody seemed to remember it.", "/{name} woke up early, for it was {his} birthday. {He} listened, but there was not a sound."],
        ["{He} met a {friend} named {fname} on the path. \"Good morning,\" said {fname}, \"I cannot stop,\" and hurried away.",
         "{He} went to see {his} friend {fname}, the {friend}, but there was a note on the door. It said, \"Gone out.\""],
        ["Even the old owl only nodded and shut one eye.", "Nobody was at the {place}, and nobody was at the shop."],
        ["/\"They have forgotten,\" said {name}, and a tear ran down {his} nose.", "/{name} walked slowly home. \"It does not matter,\" {he} said, but it did matter, very much."],
        ["The sun went down. {He} opened {his} own door, and it was quite dark inside.", "When {he} came to the gate, {he} saw that there was a light in the window."],
        ["/\"Surprise!\" cried twenty voices at once. The lamps were lit, and there they all were.", "/{He} opened the door. \"Happy birthday!\" they all shouted, and somebody began to play a tune."],
        ["There was a cake with candles, and on the table lay {a_thing}, tied up with a red ribbon.", "\"I was in such a hurry this morning,\" said {fname}, \"because the cake was in the oven!\""],
        ["/\"We all made it together,\" said the {friend}. {name} held the {thing} tight and did not know what to say.", "/And {fname} gave {him} {a_thing}. It was just what {he} had always wanted."],
        ["They danced until the moon was high.", "They ate every crumb of the cake, and sang every song that they knew."],
    ]),
    ("it is better to say that you are sorry than to hide", [
        ["/One day {fname} the {friend} lent {him} {a_thing}. \"Be careful with it,\" said {fname}, \"for it is the only one I have.\"",
         "/{name} had a neighbor, a {friend} named {fname}, who owned the prettiest {thing} in all the land."],
        ["{name} meant to be careful. But {he} ran, and {he} tripped, and the {thing} was broken.", "One day {name} picked it up, only to look at it. It slipped out of {his} hands and cracked."],
        ["\"Oh, what shall I do?\" {he} thought. \"I will hide it, and nobody will ever know.\"", "{He} looked to the left and to the right. Nobody had seen. So {he} pushed it under a bush and went home."],
        ["/But {he} could not eat {his} supper, and {he} could not sleep.", "/That night {he} dreamed that the {thing} was calling {him} by name."],
        ["Every time {he} heard a step, {he} thought that {fname} was coming.", "In the morning even the sunshine did not make {him} glad."],
        ["/At last {he} could bear it no longer. {He} took the pieces in a cloth and went to the {friend}'s door.", "/\"I must tell,\" said {name}, and {he} went before {he} could change {his} mind."],
        ["\"I have broken your {thing},\" {he} said, all in one breath, \"and I am very sorry.\"", "\"It was I who did it,\" said {name} in a small voice. \"I was afraid to say so.\""],
        ["/The {friend} was quiet for a moment. \"I am sorry too,\" said {fname}, \"but I am glad that you told me. Let us see if we can mend it.\"",
         "/{fname} looked at the pieces, and then at {name}. \"A {thing} can be mended,\" said the {friend}. \"It is harder to mend a friendship.\""],
        ["So they mended it with glue and string, and if you looked closely you could see the crack. But they both liked it better so.",
         "They sat side by side and put the pieces together, and {name} felt lighter than {he} had felt for days."],
    ]),
    ("quiet work is heard in the end", [
        ["/Every year there was a great fair at the {place}, and a prize for the one who could make the finest music.",
         "/One day the king sent word that he would come to the {place}, and that everyone should make ready a present."],
        ["All the others practiced and boasted and talked. \"What will you do?\" they asked {name}.", "Some brought gold, and some brought silk, and each one said that his own was the best."],
        ["\"I have only this old {thing},\" said {name}, and they laughed at {him}.", "{name} had nothing but {a_thing}, and it was not even new."],
        ["/Only a {friend} named {fname} did not laugh. \"Do what you can do,\" said {fname}, \"and do it well.\"", "/\"Never mind,\" said {fname}, the {friend} from next door. \"It is not the gift, it is the giver.\""],
        ["So every evening, when the work was done, {name} went out under the stars and practiced, a little at a time.", "So {name} polished the {thing} until it shone like the moon, and {he} hummed as {he} worked."],
        ["/The great day came. One was too loud, and one was too long, and one forgot everything and ran away.", "/When the day came, there was such pushing and shouting that nobody could hear a word."],
        ["Then it was {name}'s turn. {He} began so softly that everybody had to be still to listen.", "Then {name} stepped forward with {his} {thing} and said only, \"I hope that you will like it.\""],
        ["/When it was over, nobody spoke. Then they clapped so hard that the birds flew up from the roofs.", "/For a moment it was very still. Then an old man in the first row wiped his eyes and smiled."],
        ["The prize was a golden apple. {name} cut it in two, and gave half to {fname}.", "\"Of all the fine things that I have seen today,\" said the oldest of the judges, \"this one was made with love.\""],
    ]),
    ("there is always room for one more", [
        ["/One rainy day {name} found a big leaf, just large enough to keep one head dry.", "/When the rain began, {name} ran and stood under a mushroom, and there was just room enough.",
         "/It began to rain, and {name} opened {his} umbrella in the middle of the meadow."],
        ["Along came a wet {friend} named {fname}. \"May I stand there too?\" asked the {friend}.", "\"Please,\" said a {friend} named {fname}, dripping from head to foot, \"is there room for me?\""],
        ["\"It is rather small,\" said {name}, \"but we can try.\" And they stood close together.", "{name} moved a little to one side. \"Come in,\" {he} said. \"Two can be as dry as one.\""],
        ["/Next came a sparrow, and after the sparrow a mole, and each one asked to come in.", "/Then came a butterfly with wet wings, and then a shivering mouse."],
        ["Every time {name} said, \"There is no more room,\" they all moved over, and there was room after all.", "\"We shall never all fit,\" said {fname}. But they squeezed, and they pushed, and somehow they did."],
        ["/At last the sun came out. {name} looked around in surprise. \"How could so many of us stand in such a little place?\" {he} asked.", "/When the rain was over, they counted, and there were six of them. \"This morning there was hardly room for one,\" said {name}."],
        ["\"It grew while we were being kind,\" said {fname}.", "\"A place grows,\" said the {friend}, \"when friends come into it.\""],
        ["/They shook the drops from their coats and went off to look for the rainbow.", "/And they splashed home through the puddles, laughing all the way."],
    ]),
    ("even the moon is glad of company", [
        ["/Every night {name} looked up at the moon. \"It must be lonely up there,\" {he} said.", "/{name} could not sleep, because the moon was shining straight into {his} room.", "/One evening {name} saw the moon lying in the {place}, or so it seemed."],
        ["\"I will bring it a present,\" {he} thought, and {he} took {a_thing} and went out.", "So {he} put on {his} coat, took {a_thing}, and went to have a better look."],
        ["/On the way {he} met a {friend} named {fname}. \"Where are you going so late?\" asked {fname}.", "/A {friend} named {fname} was sitting on a wall, awake too. \"I am looking for the moon,\" said {name}."],
        ["\"You will need a ladder,\" said the {friend}, \"and I know where there is a long one.\"", "\"Then we must climb the highest hill,\" said the {friend}. \"I will show you the way.\""],
        ["They climbed and climbed until the houses below looked as small as nuts.", "Up they went, past the last house and past the last tree, until they stood at the very top."],
        ["/But the moon was just as far away as before. {name} held up the {thing} as high as {he} could.", "/\"It moves when we move,\" said {name}. {He} set the {thing} down on a stone and sighed."],
        ["Then a soft light fell on the {thing}, so that it shone like silver. \"See,\" whispered {fname}, \"the moon is saying thank you.\"", "\"Do not be sad,\" said {fname}. \"It has come all the way home with us before. I think that it follows you.\""],
        ["/And it was true. All the way home the moon went along beside them, from tree to tree.", "/They sat on the hill and sang to the moon until it was time to go home."],
    ]),
    ("you need not be like anyone else", [
        ["/{name} wished that {he} could fly like the birds.", "/{name} was not happy. \"If only I had a long tail,\" {he} used to say, \"or a fine loud voice!\"", "/All day long {name} wished to be somebody else."],
        ["So {he} asked a {friend} named {fname} to teach {him}.", "One day {he} saw a {friend} named {fname}, and {he} thought that nobody could be finer."],
        ["/First {he} tried to hop, and {he} fell into a bush. Then {he} tried to sing, and everyone covered their ears.", "/{He} tied leaves to {his} arms and jumped off a fence, and came down in the mud.", "/{He} put on {a_thing}, and walked on {his} toes, and talked in a strange high voice."],
        ["\"What are you doing?\" asked {fname}. \"I am trying to be you,\" said {name}.", "\"Are you ill?\" asked the {friend}. \"No,\" said {name}, \"I am only practicing.\""],
        ["/The {friend} laughed kindly. \"How strange! I have always wished to be like you.\"", "/\"But who will be {name}, then?\" asked {fname}. \"We have only one, and we should miss you.\""],
        ["\"Like me?\" cried {name}. \"Yes,\" said {fname}. \"You are so warm, and you tell such good jokes, and you always find the way home.\"", "{name} had never thought of that. {He} sat down in the grass and thought about it for a long while."],
        ["/Just then somebody called for help. A little chick had rolled down into a hollow, and no one could reach it.", "/That very evening a fog came down, and nobody could find the path."],
        ["{name} was just the right size. In a moment {he} had brought everyone safely home.", "But {name} knew what to do, for it was the thing that {he} could do best, and soon they were all safe."],
        ["/\"Now I should not like to change with anyone,\" said {name}, and {he} meant it.", "/After that {name} left the {thing} in a drawer and went about as {himself}, and was quite content."],
    ]),
    ("a promise is a small thing to say and a great thing to keep", [
        ["/One morning {name} promised to water the plants of a {friend} named {fname}, who was going on a visit.", "/A {friend} named {fname} was going away for a week. \"Will you look after my {thing}?\" asked {fname}. \"I promise,\" said {name}."],
        ["\"You can trust me,\" {he} said, and {he} meant it.", "{name} put {his} hand upon {his} heart, to show that it was a real promise."],
        ["/On the first day it was easy. On the second day the sun was hot, and the others were going to swim.", "/On Monday {he} remembered, and on Tuesday too. But on Wednesday there was a fair at the {place}."],
        ["\"Come along!\" they called. \"You can do that tomorrow.\"", "\"Come and play,\" said everyone. \"Nobody will know.\""],
        ["{name} looked at them, and looked down the road. {He} did so want to go.", "It was hard to say no. {name} opened {his} mouth, and shut it again."],
        ["/\"I cannot,\" {he} said at last. \"I gave my word.\" And {he} went back, though {he} walked rather slowly.", "/\"I should know,\" said {name}, and {he} turned around and went home."],
        ["And it was lucky that {he} did, for a great wind came up, and the gate had blown open.", "And what should {he} find but a goat with its head over the fence, just going to begin its dinner!"],
        ["{name} was only just in time to save everything.", "{He} shut the gate, and tied it, and sat down in front of it until the stars came out."],
        ["/When {fname} came home, all was as it should be. \"I never worried,\" said the {friend}, \"because it was you.\"", "/\"How can I thank you?\" asked {fname} on Sunday. Out of a bag came {a_thing}, wrapped in blue paper."],
    ]),
    ("a good laugh can open a locked door", [
        ["/In that land there was a king who never smiled. He sat upon his throne from morning until night and sighed.", "/One day a message came from the queen. \"Whoever can make the king laugh,\" it said, \"shall have a bag of gold.\""],
        ["The cooks had tried, and the wise men had tried, and it was of no use.", "Some came with jokes, and some came with dancing dogs, but the king only looked out of the window."],
        ["/\"I will try,\" said {name}, and {he} set out with {a_thing} under {his} arm and a {friend} named {fname} at {his} side.", "/{name} did not care about gold, but {he} was sorry for anyone so sad. So off {he} went, and took along a {friend} named {fname}."],
        ["At the gate {he} had to wait, and while {he} waited a {friend} sat down on the {thing}.", "On the steps the {friend} tripped over the {thing}, and {name} tripped over the {friend}, and they rolled into the hall like two balls."],
        ["\"Oh!\" cried {name}. \"Ow!\" cried the {friend}. They pulled and they tugged, and the more they pulled the worse it stuck.", "The guards tried to catch them, and they slipped too, until there was a great heap of them, all arms and legs and hats."],
        ["/Then they heard a strange sound. It began as a squeak, and then it grew. It was the king!", "/It was very quiet. Then somebody went, \"Ha!\" And then, \"Ha, ha, ha!\""],
        ["He laughed until the tears ran down his beard, and his crown fell off and rolled under a chair.", "The king held his sides. \"I had forgotten how good it feels,\" he said."],
        ["/\"What will you have?\" asked the king. \"Only a warm supper,\" said {name}, \"and that you will laugh again tomorrow.\"", "/They were given all the cake that they could eat, and the king himself sat down with them on the floor."],
    ]),
    ("the sea is wide, but a small light can be seen from far away", [
        ["/{name} had a small boat with a patched white sail, and {he} loved it dearly.", "/One fine day {name} found an old boat on the beach. {He} mended it, painted it blue, and hung {a_thing} at the mast."],
        ["One morning {he} and a {friend} named {fname} sailed out to catch the wind.", "\"Let us sail around the {place},\" said a {friend} named {fname}, and they pushed off from the shore."],
        ["/At first the water was as smooth as glass, and the gulls flew along with them.", "/The sun shone, the sail was full, and they sang as loudly as they pleased."],
        ["Then a fog came down, so thick that they could not see the end of the boat.", "But toward evening a cold wind rose, and the waves grew tall and gray."],
        ["\"Which way is home?\" asked {fname} in a very small voice.", "\"Hold on tight,\" cried {name}, \"and do not let go of the rope!\""],
        ["/They listened. They could hear nothing but the water. Then, far away, they saw a tiny light.", "/{name} was frightened, but {he} did not say so. {He} looked this way and that, and there, low down, was a little light."],
        ["It was the lamp that {name}'s grandmother set in her window every night.", "Somebody on the shore had lit a lantern and was swinging it to and fro."],
        ["Slowly, slowly, they steered toward it, until the boat bumped against the old wooden pier.", "They turned the boat, and rowed with all their might, and the light grew bigger and bigger."],
        ["/How good it was to stand upon dry land! They drank hot cocoa by the stove and told the story three times over.", "/\"I was counting on you to see it,\" said a dear voice, and there was soup on the table, and dry stockings by the fire."],
    ]),
    ("the slowest morning is the best one for finding things", [
        ["/One day {name} woke up and could not find {his} way to begin the day. Nothing seemed to be worth doing.", "/\"I have nothing to do,\" said {name} one morning, and {he} yawned."],
        ["So {he} went for a walk with no hurry at all.", "{He} went out and sat upon a fence to see what would happen."],
        ["/First {he} saw an ant carrying a crumb ten times as big as itself. {He} lifted a twig out of its way.", "/First a snail went by, and {name} walked beside it for a while, which took until ten o'clock."],
        ["Then {he} found a round white stone, and put it into {his} pocket.", "Then {he} found a feather, and it was as blue as the sky."],
        ["/Under a bush sat a {friend} named {fname}, looking very sad. \"I have lost my {thing},\" said {fname}.", "/By the {place} {he} met a {friend} named {fname}, who was new there and knew nobody."],
        ["\"I am not busy,\" said {name}, \"so I can help you.\"", "\"I have the whole day,\" said {name}, and {he} sat down."],
        ["They looked for a while, and they talked for a while, and what with one thing and another they became friends.", "They skipped stones on the water, and shared a pear, and told each other their best secrets."],
        ["/When the sun went down, they were still laughing. \"What did you do today?\" asked the owl. \"Nothing,\" said {name}, \"and it was the best day of the year.\"", "/\"I had nothing to do,\" {he} told the stars that night, \"and now there is not time enough for it all.\""],
    ]),
    ("music is better when everybody plays", [
        ["/{name} had {a_thing}, and {he} could make a fine noise with it.", "/All day long {name} practiced, and all day long the neighbors shut their windows."],
        ["\"Can you not be quiet?\" called the {friend} from next door, whose name was {fname}.", "\"What a noise!\" said a {friend} named {fname}. \"I cannot hear my own song.\""],
        ["\"I am making music,\" said {name}. \"So am I,\" said {fname}, \"and mine is much better.\"", "\"You be quiet,\" said {name}, \"for I began first.\""],
        ["/So {name} played louder, and {fname} sang louder, until the leaves shook on the trees.", "/They both went on, each as loudly as possible, and a cow in the next field put her hoofs over her ears."],
        ["At last they were so tired that they had to stop, both at the very same time.", "Then something funny happened. Quite by chance they came to the same note together."],
        ["It was very still. \"That last bit,\" said {fname}, \"was not so bad.\"", "They looked at each other. \"Do that again,\" said {name}."],
        ["/They tried it once more, softly, first one and then the other, and then both together.", "/\"You go up,\" said the {friend}, \"and I will go down, and we shall meet in the middle.\""],
        ["A cricket joined in, and a frog kept time upon a log.", "The robin came, and the bees hummed, and somebody beat upon a pot."],
        ["/By evening all the windows were open, and everyone in the {place} was dancing.", "/\"What a beautiful song!\" said the neighbors. \"Who made it?\" And {name} and {fname} pointed at each other."],
    ]),
    ("what you give away comes back by another road", [
        ["/One market day {name} set out with three fresh loaves in a basket.", "/{name} had saved three silver pennies, and {he} was going to town to buy {a_thing}."],
        ["On the road {he} met a {friend} named {fname}, who was weak with hunger. {name} gave away the first one.", "By the bridge sat a poor {friend} named {fname}. \"Take this,\" said {name}, and gave away the first."],
        ["A little farther on there was an old woman with nothing in her bag, and {he} gave away the second.", "Then {he} met a child who was crying, and so the second was gone too."],
        ["/\"Well,\" said {name}, \"one is still enough.\" But at the town gate a blind man held out his hand, and then {name} had nothing left.", "/Now there was only one left, and {he} held it fast. But when a thin dog looked up at {him}, {he} gave that away as well."],
        ["{He} turned around and went home with an empty basket, whistling so as not to feel sorry.", "There was no use in going to market now. {name} sat down by the road and wondered what {he} would have for supper."],
        ["/But somebody had been at {his} house. The table was set, and the fire was lit.", "/Then {he} heard the sound of wheels. It was the {friend}, sitting high up on a wagon."],
        ["\"You helped me when I had nothing,\" said {fname}, \"and now I have come to help you.\"", "\"Jump up!\" cried {fname}. \"I have found work, and I have baked a pie, and it is too big for one.\""],
        ["And on the best chair lay {a_thing}, with a note that said, \"For {name}, with love.\"", "And {fname} put into {his} hands {a_thing}, the very one that {he} had always wished for."],
    ]),
    ("nothing is as large as it looks in a fright", [
        ["/One noon an acorn fell on {name}'s head. \"Help!\" {he} cried. \"The sky is falling!\"", "/One day, when {name} was half asleep, something went plop in the water behind {him}."],
        ["{He} did not stop to look. {He} ran as fast as {he} could.", "Up {he} jumped and away {he} ran, without once turning {his} head."],
        ["/\"Why are you running?\" asked a {friend} named {fname}. \"Something terrible is coming!\" cried {name}. So {fname} ran too.", "/Around the corner {he} ran into a {friend} named {fname}. \"Do not ask,\" said {name}, \"only run!\""],
        ["They met a goose, and the goose ran with them. They met a pig, and the pig ran too.", "Soon there were seven of them, and not one knew what it was about."],
        ["\"How big is it?\" asked the goose. \"As big as a house,\" said {fname}. \"As big as a hill,\" said the pig.", "And with every step the thing behind them grew bigger, and had more teeth."],
        ["/At last they came to an old tortoise, who would not run. \"Did anybody see it?\" he asked.", "/But in the middle of the road stood an old donkey, chewing. \"Show me,\" said the donkey."],
        ["They looked at one another. Nobody had seen it. So, very slowly, they all went back.", "\"Well,\" said {name}, \"I only heard it.\" And they turned back on the tips of their toes."],
        ["And there, in the grass, lay one small acorn.", "And there was nothing to be seen but a little green frog, who said, \"Good day.\""],
        ["/They laughed until they had to sit down, and {name} laughed the most, though {he} was rather red.", "/\"It was a very loud one,\" said {name}. And {he} kept the acorn in {his} {thing}, to remember."],
    ]),
    ("a night under the stars is never long enough", [
        ["/One summer evening {name} and a {friend} named {fname} made up their minds to sleep out of doors.", "/\"Let us sleep in the {place} tonight,\" said a {friend} named {fname}, and {name} thought it a fine idea."],
        ["They took two blankets, {a_thing}, and a bag of cookies.", "{name} packed {a_thing}, a pillow, and more sandwiches than anyone could eat."],
        ["/They lay on their backs and counted the stars. {fname} counted a hundred, and {name} counted a hundred and one.", "/The grass was soft, and the crickets sang. One by one the stars came out."],
        ["\"What was that?\" whispered {name}. Something was moving in the dark.", "Then something went crunch, crunch, crunch, quite close to their heads."],
        ["\"I am not afraid,\" said {fname}, creeping under the blanket. \"Nor am I,\" said {name}, creeping in after.", "They held hands. \"You look,\" said {name}. \"No, you look,\" said {fname}."],
        ["/At last they both looked at once. It was a hedgehog, eating their cookies.", "/{name} peeped out. Two bright eyes looked back. It was a baby rabbit with a crumb upon its nose."],
        ["\"Good evening,\" it said politely. \"These are very good.\"", "They laughed so loudly that an owl told them to hush."],
        ["So they all finished the bag together, and told stories until the moon went down.", "There was one cookie left, and they broke it into three."],
        ["/In the morning there was dew on their noses, and the whole world smelled of clover.", "/When they woke, the sun was already high, and breakfast tasted better than ever before."],
    ]),
    ("you can find a way around every stone", [
        ["/A great stone lay in the middle of the road to the {place}, and everybody who came by grumbled about it.", "/One morning, after a storm, a fallen tree lay across the road."],
        ["\"Somebody ought to take it away,\" said the baker, and went around.", "A merchant came, and scolded, and went home again. A soldier came, and did the same."],
        ["/Then {name} came along. \"Somebody may fall over that in the dark,\" {he} said.", "/\"It will not move itself,\" said {name}, when {he} saw it, and {he} took off {his} coat."],
        ["{He} pushed with all {his} might, but it did not move an inch.", "{He} pulled until {he} was red in the face, but it was much too heavy."],
        ["\"Let me help,\" said a {friend} named {fname}, and they pushed together. It moved a little, and rolled back again.", "A {friend} named {fname} stopped to watch. \"You need a lever,\" said the {friend}, and went to find a long pole."],
        ["/Then they dug away the earth on one side, and put the pole beneath. One, two, three!", "/\"Not so fast,\" said {name}. \"First we shall make it lighter, and then we shall push.\" And they worked until noon."],
        ["Slowly it turned over and rolled into the ditch, and the road was free.", "It groaned, it tipped, and at last it rolled out of the way."],
        ["/And what do you think lay underneath? It was {a_thing}, and a note from the king: \"For the one who moves the stone.\"", "/Where it had been, they found {a_thing}, as bright as new. Nobody knew how long it had been waiting there."],
        ["{name} and {fname} shared the treasure, and ever since that day the road has been clear.", "\"It is for both of us,\" said {name}, and so it was."],
    ]),
    ("snow is best when there is someone to throw it at", [
        ["/One morning the whole world was white. {name} ran out without {his} breakfast.", "/It had snowed all night, and in the morning the snow lay as high as the window."],
        ["{He} made a ball, and rolled it, and it grew until it was as big as a barrel.", "{He} made a snowman with a carrot for a nose and two black buttons for eyes."],
        ["On the top {he} put {a_thing}, which looked very grand.", "\"You need something more,\" said {name}, and {he} gave it {his} own {thing}."],
        ["/\"I wish that you could talk,\" said {name}. \"I can,\" said a voice, and {he} jumped.", "/\"Good morning,\" said somebody. {name} stared at the snowman."],
        ["But it was only a {friend} named {fname}, hiding behind it and laughing.", "Out from behind it came a {friend} named {fname}, covered with snow from head to foot."],
        ["Plop! A snowball hit {name} on the ear. Plop! Another hit the {friend} on the nose.", "\"I will teach you to play tricks,\" cried {name}, and the snowballs began to fly."],
        ["/They slid down the hill on a tray. They made a fort, and a tunnel, and a chair of snow.", "/All day long they played, until their fingers were cold and their cheeks were red."],
        ["When the lamps were lit, they went in and dried their mittens at the stove.", "Then they went in, stamping their feet, and there was hot milk with honey."],
        ["/That night the snowman stood all alone under the stars, but he did not mind, for he was wearing the {thing}.", "/In spring the snowman went away, but they knew that he would come again."],
    ]),
    ("the first step is the hardest of all", [
        ["/Everyone could swim but {name}. {He} only stood on the bank with one foot in the water.", "/{name} wanted to jump over the brook like the others, but each time {he} stopped at the very edge.",
         "/All the young ones were learning to climb the great tree, and only {name} stayed on the ground."],
        ["\"I will do it tomorrow,\" {he} used to say.", "\"My foot hurts,\" {he} said on Monday, and on Tuesday {he} said that it was too windy.", "\"I am only waiting for the right moment,\" {he} told everybody."],
        ["/A {friend} named {fname} came and sat beside {him}. \"I was afraid once too,\" said {fname}.", "/\"What are you thinking of?\" asked a {friend} named {fname}, who had been watching for some time."],
        ["\"What did you do?\" asked {name}. \"I was afraid, and I did it,\" said the {friend}, \"both at once.\"", "\"Of falling,\" said {name}. \"Then think of something better,\" said {fname}. \"Think of supper.\""],
        ["\"I will count to three,\" said {fname}, \"and I will hold your hand until you let go.\"", "\"Only a very little step,\" said the {friend}. \"A step no bigger than a bean.\""],
        ["/One, two, three! {name} shut both eyes and went.", "/{name} took a deep breath, and then, before {he} could think about it, {he} did it."],
        ["It was cold, and it was strange, and then all at once it was wonderful.", "And nothing terrible happened. {He} opened one eye, and then the other, and laughed out loud."],
        ["/\"Again!\" cried {name}. {He} did it eleven times before dinner, and they had to call {him} twice.", "/By evening {he} was showing the others how it was done, and you would have thought that {he} had never been afraid at all."],
    ]),
    ("a mistake may turn out to be a present", [
        ["/{name} was the worst cook in the whole {place}. {His} soup was too salty, and {his} bread was as hard as a brick.", "/One day {name} was to bake a pie for the great feast, but {he} mixed up the sugar and the salt.",
         "/{name} wanted to paint {his} door green, but {he} spilled the yellow and the blue all over the step."],
        ["\"Oh, dear,\" {he} said, \"now I have spoiled everything.\"", "{He} was so ashamed that {he} wanted to hide under the table.", "{He} looked at it from the left and from the right, and it looked no better from either side."],
        ["/A {friend} named {fname} put a nose in at the door. \"What have you made?\" asked {fname}.", "/Just at that moment along came a {friend} named {fname}. \"Do not look!\" cried {name}, but it was too late."],
        ["\"A mistake,\" said {name}. \"May I have it?\" asked the {friend}.", "The {friend} looked for a long time. \"I have never seen anything like it,\" said {fname} at last."],
        ["And {fname} carried it off and set it out in the garden beside {a_thing}.", "\"With a little of this, and a little of that,\" said {fname}, and stirred it with {a_thing}."],
        ["/The next morning there was a great crowd in the street. They all wanted to know who had made it.", "/Before long the neighbors came, one after another, and each asked for a piece of it."],
        ["\"We want one too,\" they said. \"Can you make the same again?\"", "\"How did you ever think of it?\" they asked. {name} grew red, and told them the truth."],
        ["/{name} tried, but it is not easy to make the same mistake twice, and so the second was different and even better.", "/Then they laughed, and {fname} laughed, and at last {name} had to laugh too."],
    ]),
    ("the one who listens hears the most", [
        ["/In the {place} everybody talked, and nobody listened. They talked from the first cup of tea until the last.", "/{name} did not say very much. When the others shouted, {he} sat in the corner and listened."],
        ["\"Why do you never say anything?\" they asked {name}. \"I am listening,\" said {name}.", "\"{name} has nothing to say,\" said the others, and they went on talking."],
        ["/One night {name} heard a faint sound, drip, drip, drip, up by the old dam.", "/One evening {he} heard something that no one else heard. It was the wind, and the wind had changed.",
         "/One morning {name} noticed that the birds were not singing, and that the brook had a new voice."],
        ["{He} told a {friend} named {fname}. \"I hear it too,\" said {fname}, \"now that you say so.\"", "\"Hush,\" {he} said to a {friend} named {fname}. The {friend} put one ear to the ground. \"Water!\" whispered {fname}."],
        ["/Together they ran from door to door. {fname} beat upon {a_thing}, and {name} called, \"Wake up, wake up!\"", "/{name} took {a_thing} and rang it, knocked with it, and banged it, until every window was lit."],
        ["For once nobody talked. They carried stones, and they carried sand, all through the night.", "They took the children and the hens and went up to the top of the hill."],
        ["/And when the great rain came, it did no harm at all.", "/In the morning the water had come and gone, and not one of them was even wet."],
        ["\"How did you know?\" they asked. \"I only listened,\" said {name}.", "After that, when {name} opened {his} mouth, it was so still that you could hear a leaf fall."],
    ]),
    ("a small shop may hold a great deal of happiness", [
        ["/{name} opened a little shop beside the {place}. Over the door hung {a_thing}, so that everybody could find it.", "/{name} had a shop that sold only one thing, and that was buttons. There were round ones and square ones, and one in the shape of a moon."],
        ["For three days nobody came. {name} dusted the shelves and dusted them again.", "On the first day nobody came, and on the second day only a fly."],
        ["/On the fourth day a {friend} named {fname} came in. \"I need something,\" said the {friend}, \"but I do not know what.\"", "/Then the bell went ting, and in came a {friend} named {fname} with a very long face."],
        ["\"Sit down,\" said {name}, \"and tell me about it.\" And {he} poured out a cup of tea.", "{name} thought a while. \"Perhaps it is a chair by a warm stove,\" {he} said, and {he} brought one."],
        ["The {friend} told about the rain, and the long road, and a letter that had never come. {name} listened and nodded.", "They talked about this and that, about the weather and about the price of cheese, and before they knew it the clock struck five."],
        ["/\"How strange,\" said {fname}. \"I feel quite well again. What do I owe you?\"", "/\"That is just what I needed,\" said {fname}, getting up. \"How much does it cost?\""],
        ["\"Nothing,\" said {name}. \"Only come again.\"", "\"It is free on Thursdays,\" said {name}, \"and I think that today is Thursday.\""],
        ["/And the {friend} did come again, and brought an uncle, and the uncle brought a neighbor.", "/The next day there were two of them, and the day after that there were seven."],
        ["Now there are twelve chairs by the stove, and {name} sells a good many buttons besides.", "You can still find the shop if you walk that way. Look for the {thing} over the door."],
    ]),
    ("a thing that is old may still have a song in it", [
        ["/In the attic {name} found {a_thing}, all covered with dust.", "/One day {name} saw an old {thing} lying beside the road, where somebody had thrown it away.", "/Behind the barn lay an old {thing} that nobody wanted."],
        ["It was bent, and it was cracked, and it had lost its shine.", "\"What a poor old thing,\" said {name}, and {he} picked it up."],
        ["\"Throw it away,\" said the goose. \"Buy a new one,\" said the rooster.", "\"It is good for nothing,\" said a passing crow. \"We shall see,\" said {name}."],
        ["/But {name} washed it, and rubbed it with oil, and set it in the sun. It took {him} a whole week.", "/That night {he} sat by the lamp and worked, and so it went the next night and the next."],
        ["{fname}, a {friend} from across the way, brought a screw and a piece of string.", "\"You need some red paint,\" said {fname}, the {friend} from over the hill, and went to fetch it."],
        ["/On Saturday it was ready. {name} held {his} breath and tried it.", "/At last there was only one thing left to do. {name} gave it a little tap."],
        ["And it worked! It was as good as it had ever been, and perhaps a little better.", "It gave a sound like a sigh, and then a sound like a laugh, as if it were waking from a long sleep."],
        ["/An old woman stopped at the gate with tears in her eyes. \"That was mine when I was small,\" she said.", "/\"I once had one just like it,\" said an old man at the gate, \"when I was no bigger than you.\""],
        ["So {name} gave it back, and in return {he} got a basket of plums and a hundred stories.", "{name} put it into the old hands, and it was the happiest afternoon that any of them could remember."],
    ]),
    ("wishes should be made with care", [
        ["/One morning {name} caught a little golden fish. \"Let me go,\" it said, \"and you shall have three wishes.\"", "/One evening, in a hollow tree, {name} found {a_thing}. {He} rubbed it, and out came a tiny fairy. \"You may wish three times,\" said the fairy."],
        ["\"Three!\" cried {name}. \"I must think about that.\" And {he} sat down and thought.", "{name} was so surprised that {he} nearly fell over."],
        ["/But {he} was hungry with so much thinking. \"I wish I had a pancake,\" {he} said, and there it was.", "/\"I wish that it were not so hot,\" {he} said without thinking, and at once it began to snow."],
        ["\"That was a foolish wish!\" cried a {friend} named {fname}, who was standing by. \"You might have had a castle!\"", "\"How silly!\" said {fname}, a {friend} who lived next door. \"You could have wished for a mountain of gold!\""],
        ["{name} grew angry. \"I wish that you would stick to the ground,\" {he} said. And the {friend} could not move one foot.", "\"Oh, I wish that you would be quiet!\" said {name}. And {fname} opened and shut both lips, and not a sound came out."],
        ["/Now they were both frightened, for there was only one wish left.", "/{name} was sorry at once. There {he} stood, and {he} had one wish, and {he} could have anything in the world."],
        ["{He} thought of castles, and {he} thought of gold. Then {he} looked at {fname}.", "A crown, a ship, a garden full of roses, all these went through {his} head. But it took {him} no longer than a moment."],
        ["\"I wish that everything were just as it was this morning,\" said {name}, and so it was.", "\"I wish for my friend back,\" {he} said, and that was the end of the wishes."],
        ["/They walked home together, and they made their own pancakes, and ate them while they were hot.", "/\"That was the best of the three,\" said {fname}, and gave {him} a hug."],
    ]),
    ("whoever plants for others will never sit in the sun alone", [
        ["/An old {friend} named {fname} was planting a tiny apple tree.", "/{name} went by a field where an old {friend} named {fname} was digging a hole."],
        ["\"Why do you do that?\" asked {name}. \"It will be many years before there are any apples.\"", "\"What is that for?\" asked {name}. \"For a tree,\" said the {friend}. {name} laughed. \"You will never climb it!\""],
        ["\"When I was small,\" said {fname}, \"I ate from trees that I had not planted. Now it is my turn.\"", "\"No,\" said {fname}, \"but somebody will. Somebody planted the one that I used to climb.\""],
        ["/{name} thought about this all the way home, and all through supper too.", "/{name} had no answer to that. {He} scratched {his} head and looked at the little tree."],
        ["The next morning {he} came back with {a_thing} and a bucket of water. \"May I help?\" {he} asked.", "\"Then I shall help you,\" {he} said, \"for two can dig faster than one.\""],
        ["So they planted a whole row of them, all along the road, and gave each one a name.", "They worked until the sun went down, and when they were done there were ten little trees standing in a line."],
        ["/Summers came and went. The trees grew, and {name} grew too.", "/The years went by, as years do, some quickly and some slowly."],
        ["And one warm day a child stopped in the shade and took a red apple, and asked, \"Who planted these?\"", "And when the first apple was ripe, {name} carried it to {fname} on a blue plate."],
        ["/\"A friend and I,\" said {name}. \"Come here, and I will show you how.\"", "/They ate it together, half and half, and it was the sweetest apple in the world."],
    ]),
    ("a riddle is a door, and a friend is the key", [
        ["/There was an old gate in the {place}, and on it was written a riddle that nobody could guess.", "/One day a stranger came to the {place} and promised {a_thing} to anyone who could guess a riddle."],
        ["\"What grows bigger the more you take away from it?\" That was the riddle.", "\"What can you keep only after you have given it away?\" That was the riddle.", "\"What goes around the whole house and leaves only one footprint?\" That was the riddle."],
        ["Everybody tried. \"A cloud,\" said one. \"A cheese,\" said another. And they were all wrong.", "The wise men guessed, and the fools guessed, and nobody came anywhere near."],
        ["/{name} thought about it in the morning and in the evening, and could not eat for thinking.", "/{name} walked up and down, up and down, until there was a path in the grass."],
        ["A {friend} named {fname} wanted to help. \"Let us begin at the beginning,\" said {fname}.", "\"Two heads are better than one,\" said a {friend} named {fname}, and sat down beside {him}."],
        ["They drew it in the sand, and they said it backward, and they sang it to a tune.", "First they thought of everything that it could not be, and that took until noon."],
        ["/Then {fname} stepped back and fell right over {name}'s feet, and both of them began to laugh. \"I have it!\" they cried together.", "/All of a sudden {name} jumped up. \"Say that again!\" {he} cried, and {fname} said it again, and then they both knew."],
        ["They whispered the answer, and it was right.", "They ran all the way, and told it, quite out of breath. It was the right one!"],
        ["/I shall not tell you what it was. Perhaps you can guess it yourself.", "/And what was it? Ask the {friend}, or ask {name}, or shut your eyes and think."],
    ]),
]
ADJECTIVES = (
    "little old young merry clever shy gentle cheerful brave lazy curious busy proud lonely hungry friendly "
    "small tiny big tall round quiet sleepy careful honest jolly patient thoughtful kind good-natured"
).split()


def article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def _names(rng, noun):
    gender = "she" if noun in FEMALE else "he" if noun in MALE else rng.choice(["he", "she"])
    return gender, rng.choice(NAMES[gender])


HEROES = ANIMALS * 3 + PEOPLE * 3 + MORE_HEROES + WONDERS


def make(rng, hero=None, friend=None, thing=None, place=None):
    """One fable as paragraphs, and the nouns that it is about, the hero first."""
    hero = hero or rng.choice(HEROES)
    friend = friend or rng.choice([n for n in ANIMALS + PEOPLE if n != hero])
    moral, beats = rng.choice(PLOTS)
    thing = thing or rng.choice(FITTING.get(moral, THINGS))
    place = place or rng.choice(list(PLACES))
    he, name = _names(rng, hero)
    _, friend_name = _names(rng, friend)
    while friend_name == name:
        _, friend_name = _names(rng, friend)
    adjective = rng.choice([a for a in ADJECTIVES if a != "young" or hero != "grandmother"])
    words = {
        "hero": hero, "friend": friend, "thing": thing, "a_thing": article(thing), "place": place,
        "name": name, "fname": friend_name, "moral": moral, "adj": adjective, "where": PLACES[place],
        "Where": PLACES[place][0].upper() + PLACES[place][1:], "he": he, "He": he.capitalize(),
        "his": "his" if he == "he" else "her", "him": "him" if he == "he" else "her",
        "His": "His" if he == "he" else "Her", "himself": "himself" if he == "he" else "herself",
    }
    told = [rng.choice(OPENING), rng.choice(HABIT)] + [rng.choice(beat) for beat in beats]
    told.append(rng.choice(["", "/"]) + rng.choice(CLOSING))
    text = " ".join(part for part in told if part)
    text = re.sub(r"\b([Aa]) (?=[aeio]|um|ug|honest|hour)(?!one\b|once\b)", r"\1n ", text.format(**words))
    paragraphs = [p.strip() for p in text.split("/")]
    body = "\n\n".join(paragraphs)
    called = f"{hero} named {name}"
    told = set(re.findall(r"[a-z]+", body.split("\n\n", 1)[-1].lower()))
    about = [hero] + [n for n in (friend, thing, place) if n in told]
    scenes = [n for n in SCENES if n in told and n not in about]
    return body, about, scenes, called
