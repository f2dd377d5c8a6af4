"""A chat in the terminal with the OpenAI client: pip install openai; python examples/chat.py [URL] [KEY]."""
import sys

import openai

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
key = sys.argv[2] if len(sys.argv) > 2 else "none"
client = openai.OpenAI(base_url=url + "/v1", api_key=key)
model = client.models.list().data[0].id
messages = []
print(f"{model} at {url}; an empty line ends the chat.")
while True:
    try:
        text = input("> ")
    except EOFError:
        break
    if not text:
        break
    messages.append({"role": "user", "content": text})
    answer = ""
    stream = client.chat.completions.create(
        model=model, messages=messages, max_tokens=512, stream=True, stream_options={"include_usage": True}
    )
    for part in stream:
        if part.choices:
            piece = part.choices[0].delta.content or ""
            answer += piece
            print(piece, end="", flush=True)
        elif part.usage:
            print(f"\n[{part.usage.prompt_tokens} + {part.usage.completion_tokens} tokens]")
    messages.append({"role": "assistant", "content": answer})
