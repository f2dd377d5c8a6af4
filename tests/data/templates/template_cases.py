"""Hand-written templates, by what they show. Values are named beside them where they need any."""

PEOPLE = [{"name": "Ann", "age": 31, "tags": ["x", "y"]}, {"name": "bob", "age": 25}, {"name": "Cy", "age": 31, "tags": []}]
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi\n"}, {"role": "assistant", "content": None,
        "tool_calls": [{"function": {"name": "f", "arguments": {"b": 1, "a": "ü\u2028<&>"}}}]}]
VALUES = {"s": "Hello, Wörld 🙂", "n": 7, "f": 2.5, "l": [3, 1, 2], "d": {"b": 1, "a": [1, 2], "items": "shadow"}, "people": PEOPLE,
          "messages": CHAT, "empty": [], "none_": None, "html": "<a href='x'>\"&\"</a>"}

EXPRESSIONS = """
1 + 2 * 3 ** 2 // 4 % 5
2 ** 3 ** 2
-2 ** 2
-f|abs
(-f)|abs
not 1 == 2 and 3 or 4
1 < 2 < 3
3 > 2 > 2
1 < 3 > 2 == 2
'a' ~ 1 ~ none ~ true ~ 1.0 ~ [1]
1 ~ 2 + 3
1 + 2 ~ 3
7 // 2, -7 // 2, 7 % -3, -7 % 3, 7.5 // 2, -7.5 % 2
7 / 2, 6 / 3, 1 / 3, 2 ** -1, 2 ** 0.5
1e16, 1e15, 123456789012345678, 0.1 + 0.2, 1e-4, 1e-5, 5e-324, 1.7976931348623157e308, 100.0, -0.0
0x1F, 0b101, 0o17, 1_000_000, 1_0.5e1_0
true, True, false, none, None
'a' 'b' "c"
'\\x41\\u00e9\\U0001F642\\n\\t\\\\\\'\\101\\q'
"it's", 'say "x"', 'both \\' and "'
['it\\'s', 'say "x"', 'both \\' and "', 'tab\\t', '\\x00\\x7f', 'é\\u200b🙂']
[1, 2,], (1,), (), {}, {'a': 1,}, (1, 2)
{1: 'a', 1.0: 'b', true: 'c'}
{'k': none, 'z': 1.5}['k']
s[0], s[-1], s[7:12], s[::-1], s[::3], s[-3:-1], s[100:], s[:-100], s[5:2:-1]
l[::-1], l[0], l[-1], l[1:], l[10:], l[::-2], l[2:0:-1]
l[5], s[50], d['zz'], d.zz, none_.x
'abc'.upper(), 'ABC'.lower(), 'straße'.upper(), 'ŉ'.upper(), 'ǆ'.title(), 'İ'.lower()
'ΑΣ'.lower(), 'ΑΣ Σ Α.Σ'.lower(), 'Σ'.lower()
'hello world'.title(), 'hello world'|title, "it's o'neil"|title, "it's o'neil".title(), 'x-y (z) [w] {v} <u>'|title
'hELLO wORLD'.capitalize(), 'éA'|capitalize, ''|capitalize
'  x '.strip(), 'xxaxx'.strip('x'), 'abcba'.lstrip('ab'), 'abcba'.rstrip('ab'), '\\u00a0x\\u3000'.strip()
'a,b,,c'.split(','), ' a  b '.split(), 'a b c'.split(' ', 1), 'a b c'.rsplit(' ', 1), 'a b c'.split(none, 1), ''.split(), ''.split(',')
'a\\nb\\r\\nc\\x0bd\\u2028e'.splitlines(), 'a\\n\\nb\\n'.splitlines(true)
'abcabc'.find('c'), 'abcabc'.rfind('c'), 'abc'.find('z'), 'añb'.find('b'), 'abcabc'.count('bc'), 'aaa'.count(''), 'abc'.find('c', 1, 2)
'abc'.startswith('ab'), 'abc'.startswith(('x', 'a')), 'abc'.endswith('bc', 1), 'abc'.startswith('c', 2), 'abc'.startswith('')
'a-b-c'.replace('-', '+'), 'a-b-c'.replace('-', '+', 1), 'abc'.replace('', '.'), 'abc'.replace('', '.', 2), 'aa'.replace('a', '')
'{} {}'.format(1, 'x'), '{1}{0}'.format(1, 2), '{a.name} {b[0]}'.format(a=people[0], b=l), '{:>5}|{:^5}|{:<5}|{:*^7}'.format(1, 2, 3, 'x')
'{:05.1f} {:+d} {:,} {:_} {:x} {:#X} {:e} {:%} {:g}'.format(3.14159, 5, 1234567, 1234567, 255, 255, 12345.678, 0.256, 1e20)
'{!r} {!s} {{}}'.format('a', 'b'), '{0:{1}}|'.format('x', 5)
'%s %d %5.2f %x %r %%' % ('a', 42, 3.14159, 255, 'q'), '%(a)s-%(b)03d' % {'a': 1, 'b': 2}, '%-5s|%5s|%05d' % ('a', 'b', 42)
'%s' % 'x', '%s' % [1], '%d' % 3.9, '%c%c' % ('x', 65), '%+d % d' % (1, 2), '%#x %#o' % (255, 8), '%.3s' % 'abcdef', '%*d' % (5, 42)
'abc'.center(7, '*'), 'abc'.ljust(5) ~ '|', 'abc'.rjust(5), '42'.zfill(5), '-42'.zfill(5), 'abcd'.center(7), 'abc'.center(6)
'a\\tb'.expandtabs(4), 'abc'.partition('b'), 'abcbd'.rpartition('b'), 'abc'.partition('z'), 'xabc'.removeprefix('x'), 'abcx'.removesuffix('x')
'12'.isdigit(), '½'.isnumeric(), '²'.isdigit(), '²'.isdecimal(), 'a1'.isalnum(), 'Ab'.istitle(), 'é'.isalpha(), ' \\n'.isspace(), ''.isdigit(), 'a_1'.isidentifier(), 'ab'.isascii()
'aB'.swapcase(), 'ß'.casefold(), 'a'.join(['x', 'y']), ','.join('abc'), ''.join([])
'x' * 3, 3 * 'x', 'x' * -1, [1] * 2, [1, 2] + [3], (1,) + (2,), 'ab' + 'cd'
1 == 1.0, 1 == true, '1' == 1, none == false, [1, 2] == [1.0, 2], (1,) == [1], {'a': 1} == {'a': 1.0}, missing == missing2
1 in [1.0], 'a' in 'cat', 'x' not in d, 'b' in d, 'a' in {'a': 1}, none in [none], '' in 'a', 1 in missing, (1 in range(3))
'a' < 'b', 'Z' < 'a', 'é' > 'z', [1, 2] < [1, 3], (1, 2) <= (1, 2), 1 < 1.5, true < 2, '10' < '9'
missing, missing ~ 'x', missing|default('d'), missing is defined, missing == none, not missing, missing|length, missing|list, missing|string
none_|default('d'), none_|default('d', true), ''|default('d'), ''|default('d', boolean=true), 0|d('x', true), d.zz|default([])|length
d['items'], d.items() is iterable, d.keys(), d.values(), d.items()|list
d.get('b'), d.get('zz'), d.get('zz', 5), d|length, d|list, d|items|list, 'b' in d.keys()
people|map(attribute='name')|join(', '), people|map(attribute='tags.0')|list, people|map(attribute='tags', default='-')|list
people|selectattr('tags')|map(attribute='name')|list, people|selectattr('age', 'gt', 30)|list|length, people|rejectattr('tags', 'defined')|map(attribute='name')|list
people|sort(attribute='name')|map(attribute='name')|list, people|sort(attribute='age,name', reverse=true)|map(attribute='name')|list
people|groupby('age'), people|groupby('age')|map(attribute='grouper')|list, people|groupby('tags', default=[])|length
people|sum(attribute='age'), l|sum(start=10), []|sum, [1.5, 2]|sum
l|sort, l|sort(reverse=true), ['b', 'A', 'a', 'B']|sort, ['b', 'A', 'a', 'B']|sort(case_sensitive=true), [none, none]|sort
l|min, l|max, ['b', 'A']|min, []|max, people|max(attribute='age'), ['b', 'A']|min(case_sensitive=true)
[1, 1.0, true, 2, '1']|unique|list, ['a', 'A', 'b']|unique|list, ['a', 'A']|unique(true)|list, people|unique(attribute='age')|map(attribute='name')|list
range(7)|batch(3)|list, range(7)|batch(3, 'x')|list, range(7)|slice(3)|list, range(7)|slice(3, 'x')|list
l|first, l|last, ''|first, []|last, 'abc'|last, d|first, range(0)|first
l|reverse|list, 'añb'|reverse, d|reverse|list, l|reverse|first
[1, 'a', none, 2.5]|map('string')|list, ['1', 'x']|map('int', 7)|list, [[1, 2], [3]]|map('length')|list, ['a']|map('upper')|join
range(10)|select('odd')|list, range(10)|reject('divisibleby', 3)|list, [0, 1, '', 'a', none]|select|list, ['', 'a']|reject|list
'42'|int, '4.9'|int, 'x'|int, 'x'|int(9), '0x1f'|int(0, 16), '101'|int(base=2), 3.9|int, true|int, '1_000'|int, ' 5 '|int, [1]|int, none|int
'1.5'|float, 'x'|float, 'x'|float(2.5), 3|float, '1e3'|float, 'inf'|float, '-nan'|float
2.5|round, 3.5|round, -2.5|round, 2.675|round(2), 1234.5|round(-2), 7|round(1), 2.1|round(method='ceil'), 2.9|round(0, 'floor'), 2.55|round(1, 'ceil'), 15|round(-1), 25|round(-1)
-3|abs, -2.5|abs, true|abs
'a b  c'|wordcount, 'é_1 x'|wordcount, ''|wordcount
'abc def ghi jkl'|truncate(9), 'abc def ghi jkl'|truncate(9, true), 'abc def ghi jkl'|truncate(9, false, '…', 0), 'abc'|truncate(3)
'a\\nb\\n\\nc'|indent, 'a\\nb'|indent(2, true), 'a\\n\\nb'|indent(1, blank=true), 'a\\nb'|indent('> ')
'  a '|trim, 'xax'|trim('x'), 42|trim, html|e, html|escape|escape, html|safe, html|forceescape, (html|e)|forceescape
html|safe + '<', '<' + ('>'|safe), ('<'|e) ~ '<', ('%s<'|safe) % '<', ('{}<'|safe).format('<'), ('<'|e)|upper, ['<', '>']|join('&'), ('&'|e).join(['<', '>'])
html|urlencode, {'a': 1, 'b c': '&'}|urlencode, 'a/b c'|urlencode, 5|urlencode
1000|filesizeformat, 1|filesizeformat, 1234567|filesizeformat, 1234567|filesizeformat(true), 500|filesizeformat
'%s-%s'|format('a', 1), '%(x)s'|format(x=5), 'abc'|center(9), 5|string|length
d|dictsort, d|dictsort(reverse=true), {'B': 1, 'a': 2}|dictsort, {'B': 1, 'a': 2}|dictsort(true), {'x': 2, 'y': 1}|dictsort(by='value')
d|tojson, d|tojson(indent=2), {'a': [], 'b': {}, 'c': ()}|tojson(indent=2), [1, 1.0, none, true, 'é"\\\\\\n\\x01/']|tojson
messages|tojson, messages|tojson(ensure_ascii=true), {'b': 1, 'a': 2}|tojson(sort_keys=true), {'a': [1, 2]}|tojson(separators=(',', ':')), [1]|tojson(indent='\\t')
{1: 1, none: 2, true: 3, 1.5: 4}|tojson, 1e100|tojson, '🙂'|tojson(true), (1, 2)|tojson, '\\x7f\\u2028'|tojson, 0.1|tojson
5 is number, 5.0 is integer, true is number, true is integer, 5 is float, 5.5 is float, 'x' is string, none is none, d is mapping, l is mapping
'x' is sequence, l is sequence, d is sequence, missing is sequence, 5 is sequence, range(3) is sequence, 'x' is iterable, 5 is iterable, missing is iterable, none is iterable
4 is even, 5 is odd, 9 is divisibleby 3, 9 is divisibleby(2), 2 is in [1, 2], 'a' is in 'cat', 5 is not even
1 is eq 1.0, 1 is ne 2, 1 is lt 2, 2 is ge 2, 3 is greaterthan 2, 1 is equalto 1, 1 is sameas 1, none is sameas none, [] is sameas []
'ab' is lower, 'AB' is upper, range is callable, 'x'.upper is callable, 5 is callable, ('x'|e) is escaped, 'x' is escaped, true is boolean, 1 is boolean, true is true, 1 is true, false is false
'upper' is filter, 'nope' is filter, 'odd' is test, 'nope' is test
1 if true else 2, 1 if false, (1 if false) is defined, 'a' if none else 'b' if false else 'c'
(1 if true else 2) + 3, [1 if x is defined else 2 for_]|length if false else 'no'
l|length > 2 and 'yes' or 'no', 0 or 'x', '' and 'y', none or none_ or 'z', 1 and 2
range(5)|list, range(2, 5)|list, range(5, 0, -2)|list, range(3), range(1, 3), range(0, 9, 2)[1:3], range(10)[::-1], range(3)|length
dict(a=1)|tojson, dict([('x', 1)], y=2), dict(d, z=3)|length, namespace(a=1).a, namespace(a=1), namespace(a=1).b is defined
s|length, s|upper, s|list|length, '日本語'|length, '日本語'[1], '日本語'[::-1]
l.index(1), l.count(3), [1, 2].copy(), (1, 2).count(1), 5 .real, 2.0.is_integer(), 5 .bit_length()
people[0].name, people[0]['name'], people.0.name, people[-1].age, (people|first).name, people[0].tags.1
strftime_now('%Y-%m-%d'), strftime_now('%d %b %Y %H:%M:%S'), strftime_now('%A %j %U %p %I %y %%')
joiner()() ~ '|', cycler(1, 2).next(), messages[2].tool_calls[0].function.arguments|tojson, messages[2].content is none
[1, [2, {'a': (3, 'x')}]], {'a': [none, true]}, ((1,),), [[]], [missing], [none_, 'n']
l|map('default', 5)|list, [missing, 1]|map('default', 5)|list, [1, 2]|map('round', 1)|list
'a,b;c'|replace(',', ';')|replace(';', '')|upper, 5|replace('5', '6'), 'aaa'|replace('a', 'b', 2), 'x'|replace('x', none)
'x'|attr('upper') is callable, d|attr('b') is defined, {'a': 1}|attr('items') is callable
"""

RAISES = """
missing.x
missing.x.y
d.zz.y
none_.x.y
d['zz'][0]
l[9].x
s.nope.x
missing + 1
1 + missing
missing * 'x'
missing < 1
-missing
missing()
d.zz()
5()
'x'.nope()
namespace(a=1).b.c
missing|int
missing|float
missing|round
l|last|nope
raise_exception('Bad: ' ~ n)
raise_exception('ünï <&> "q"')
raise_exception(missing)
1 / 0
1 // 0
1 % 0
1.0 / 0
'a' + 1
1 + 'a'
[1] + 'a'
none + 1
'a' < 1
none < none
{} < {}
[1, 'a']|sort
'a' in 5
5 in 'a'
5|length
none|list
5|join
5|items|list
{[]: 1}
'x' * 'y'
'%d' % 'x'
'%s %s' % 'x'
'%s' % (1, 2)
'{} {}'.format(1)
'{x}'.format(y=1)
'x'.split('')
'x'.join([1])
'abc'.index('z')
range()
range(1, 2, 0)
range(100001)
cycler()
dict([1])
'x'|upper(1)
'x'|replace('a')
[1]|map|list
[1]|map('nope')|list
[1]|select('nope')|list
[1]|map(attribute='a', other=1)|list
'x'|round
'x'|abs
(1, 2)|tojson(nope=1)
namespace()|tojson
missing|tojson
{(1, 2): 3}|tojson
([1]|map('string'))|tojson
[]|min|upper ~ ([]|min).x
1 is divisibleby 0
'abc'|truncate(1)
5|indent
l|batch('x')|list
l|slice(0)|list
-'x'
'x'.startswith(1)
'x' ** 2
"""

TEMPLATES = [
    "plain", "", "\n", "a\n", "a\n\n", "  a  ", "\r\na\rb\n", "{ { % } }", "{{ '{{' }}{{ '}}' }}{{ '%}' }}",
    "{{ {'a': {'b': 1}}['a']['b'] }}{{ {'a': {}} }}", "a {{- ' b ' -}} c", "a\n{{- 'b' -}}\n c", "a {%- if true -%} b {%- endif -%} c",
    "  {% if true %}\n  x\n  {% endif %}\n  y", "  {%+ if true +%}\n  x\n  {%+ endif %}\n", "a  {% if true %}b{% endif %}  \n c", "x {# c #} y", "x {#- c -#} y",
    "  {# c #}\n  y", "  {#+ c +#}\n  y", "{# {{ x }} {% if %} #}ok", "{% raw %}{{ x }}{% endraw %}", "a {%- raw -%} {{ x }} {%- endraw -%} b",
    "{% raw %}\n{% if %}\n{% endraw %}\nx", "\u00a0{%- if true %}x{% endif -%}\u2003 y", "{{ 1 }}\n{{ 2 }}\n", "{{ 1 -}}\n{{ 2 }}",
    "{% if false %}a{% elif none %}b{% elif 1 %}c{% else %}d{% endif %}", "{% if l %}y{% endif %}{% if not empty %}n{% endif %}", "{% if n > 5 and n is odd: %}x{% endif %}",
    "{% for x in l %}{{ x }}{{ ',' if not loop.last }}{% endfor %}", "{% for x in empty %}{{ x }}{% else %}none{% endfor %}",
    "{% for x in l if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in d %}{{ k }}{% endfor %}", "{% for c in 'añ🙂' %}[{{ c }}]{% endfor %}", "{% for a, (b, c) in [(1, (2, 3)), (4, [5, 6])] %}{{ a }}{{ b }}{{ c }};{% endfor %}",
    "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}|{% endfor %}",
    "{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}", "{% for x in [1, 1, 2, 2, 1] %}{{ loop.changed(x) }}{% endfor %}",
    "{% for x in range(5) %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for x in l|map('string') %}{{ loop.last }}{{ loop.length }}{{ x }}{% endfor %}",
    "{% for x in range(6) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 4 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in [1] %}{% break %}{% else %}else{% endfor %}", "{% for x in [1, 2] %}{% if x == 1 %}{% continue %}{% endif %}{% else %}else{% endfor %}",
    "{% for x in [1] %}{% for y in [2, 3] %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}", "{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + i %}{{ x }};{% endfor %}{{ x }}",
    "{% set ns = namespace(x=0, y=[]) %}{% for i in l %}{% set ns.x = ns.x + i %}{% set ns.y = ns.y + [i] %}{% endfor %}{{ ns.x }}{{ ns.y }}",
    "{% for t in [[1, [2, [3]]], [4]] recursive %}{{ loop.depth }}{% if t is iterable %}({{ loop(t) }}){% else %}{{ t }}{% endif %}{% endfor %}",
    "{% for i in l %}{% set ns = namespace(v=i) %}{{ ns.v }}{% endfor %}{{ ns is defined }}", "{% for x in 5 %}{% endfor %}", "{% for a, b in [1] %}{% endfor %}", "{% for a, b in [[1]] %}{% endfor %}", "{% for a, b in [[1, 2, 3]] %}{% endfor %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a = 1, 2 %}{{ a }}", "{% set (a, b) = (1, 2) %}{{ a + b }}", "{% set x %}a {{ n }} b{% endset %}[{{ x }}]", "{% set x | upper | replace('A', 'b') %}a {{ n }}{% endset %}{{ x }}",
    "{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}", "{% set x %}{% set y = 1 %}{% endset %}{{ y is defined }}", "{% set ns = 5 %}{% set ns.x = 1 %}",
    "{% macro m(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }}|{{ m(1, 3) }}|{{ m(c=5, a=0) }}|{{ m() }}", "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}", "{% macro m(a) %}{{ a.x }}{% endmacro %}{{ m() }}", "{% macro m(a) %}{{ a is defined }}{% endmacro %}{{ m() }}{{ m(none) }}",
    "{% macro f(n) %}{{ n }}{% if n %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}", "{% macro m() %}{{ later }}{% endmacro %}{% set later = 3 %}{{ m() }}", "{% macro m() %}{% set z = 1 %}{% endmacro %}{{ m() }}{{ z is defined }}",
    "{% macro w(t) %}<{{ t }}>{{ caller() }}</{{ t }}>{% endmacro %}{% call w('b') %}in {{ n }}{% endcall %}", "{% macro w() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b=5, c=6) w() %}{{ a }}{{ b }}{{ c }}{% endcall %}",
    "{% macro m() %}{{ caller is defined }}{{ caller() }}{% endmacro %}{{ m() }}", "{% macro m(x) %}{{ m.name }}{{ m.arguments }}{{ m.catch_kwargs }}{{ m.caller }}{% endmacro %}{{ m(1) }}{{ m }}",
    "{% macro m(*) %}{% endmacro %}", "{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1, 2]) }}{{ m(**{'a': 3, 'b': 4}) }}{{ m(*[5], **{'b': 6}) }}",
    "{% filter upper %}a {{ s }}{% endfilter %}", "{% filter replace('a', 'b')|upper %}aXa{% endfilter %}", "{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}", "{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q is defined }}",
    "{% with n = 1, m = n %}{{ m }}{% endwith %}", "{% generation %}a {{ n }}{% set g = 1 %}{% endgeneration %}{{ g is defined }}", "{% block b %}x{{ n }}{% endblock b %}", "{% set y = 4 %}{% for i in [1] %}{% block c scoped %}{{ i }}{{ y }}{% endblock %}{% endfor %}",
    "{% autoescape false %}{{ html }}{% endautoescape %}", "{% print 1, 'a', l %}", "{% set l2 = [] %}{% for i in l %}{% set _ = l2.append(i * 2) %}{% endfor %}{{ l2 }}{{ l2.pop() }}{{ l2.pop(0) }}{{ l2 }}{% set _ = l2.extend([7, 8]) %}{% set _ = l2.insert(1, 'x') %}{{ l2 }}{% set _ = l2.remove(7) %}{% set _ = l2.reverse() %}{{ l2 }}{% set _ = l2.clear() %}{{ l2 }}",
    "{% set e = {} %}{% set _ = e.update({'a': 1}, b=2) %}{{ e }}{{ e.pop('a') }}{{ e.pop('zz', 9) }}{{ e.setdefault('c', 3) }}{{ e.popitem() }}{{ e }}", "{% set g = l|select('odd') %}{{ g|list }}{{ g|list }}", "{% set g = l|map('string') %}{{ g|first }}{{ g|list }}{{ 'y' if g }}",
    "{% set j = joiner(', ') %}{% for x in l %}{{ j() }}{{ x }}{% endfor %}", "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.next() }}{% set _ = c.reset() %}{{ c.next() }}",
    "{% if false %}{{ x|nope }}{% endif %}ok", "{{ 'a' if true else 'b'|nope }}", "{{ 'a'|nope if false else 'b' }}", "{% if true %}{{ 'x'|nope }}{% endif %}", "{{ x|nope }}", "{{ x is nope }}", "{% if false %}{% for i in l %}{{ i|nope }}{% endfor %}{% endif %}",
    "{% if x %}", "{% endif %}", "{% for %}", "{{ }}", "{{ 1 + }}", "{{ (1 }}", "{{ 1) }}", "{{ 'x }}", "{# x", "{% raw %}", "{% nope %}", "{% set 1 = 2 %}", "{% set true = 2 %}", "{% for loop in l %}{% endfor %}", "{{ a b }}", "{{ 1 is odd is even }}", "{% break %}",
    "{% macro m(a=1, b) %}{% endmacro %}", "{% call n %}{% endcall %}", "{{ f(a=1, 2) }}", "{{ f(**a, *b) }}", "{{ f(a=1, a=2) }}", "{% include 'x' %}", "{{ '\\x4' }}", "{{ 5 % }}", "{{ a.b. }}", "{{ a[ }}", "{{ {1} }}", "{{ ~ }}", "{{ 1 if }}",
    "{{ loop is defined }}{% for x in [1] %}{{ loop is defined }}{% endfor %}", "{% for m in messages %}{{ m.role }}:{{ m.content if m.content is string else m.tool_calls|tojson }};{% endfor %}",
    "{%- for m in messages -%}\n<|{{ m['role'] }}|>\n{%- if m.content %}{{ m.content|trim }}{% endif %}\n{%- endfor %}", "{{ messages[0]['content'] + '\n' }}{{ messages[1:]|length }}{{ (messages|last).role }}",
    "{% set ns = namespace(sys='') %}{% for m in messages if m.role == 'system' %}{% set ns.sys = m.content %}{% endfor %}{{ ns.sys }}", "{{ raise_exception('stop') if n == 7 else 'go' }}",
    "{% set loop_messages = messages[1:] if messages[0].role == 'system' else messages %}{{ loop_messages|length }}", "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles') }}{% endif %}{% endfor %}",
]

CASES = [("{{ " + e + " }}", VALUES) for e in EXPRESSIONS.strip().split("\n")]
CASES += [("\n{{ " + e + " }}", VALUES) for e in RAISES.strip().split("\n")]
CASES += [(t, VALUES) for t in TEMPLATES]
