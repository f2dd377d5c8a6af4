"""Batched generation with one seed for each prompt, independent of the batch it is in."""

import torch

END_IDS = (2, 0)


def _pick(logits, generator, temperature, top_k, top_p):
    if temperature == 0:
        return int(logits.argmax())
    values, ids = (logits / temperature).topk(top_k)
    chances = values.softmax(-1)
    chances[chances.cumsum(-1) - chances >= top_p] = 0
    return int(ids[torch.multinomial(chances, 1, generator=generator)])


@torch.no_grad()
def generate(model, prompts, seeds, limit, temperature=0.7, top_k=40, top_p=0.95):
    """Token ids after each prompt, the end token included if it came."""
    device = model.device
    width = max(map(len, prompts))
    tokens = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    outputs, cache = [[] for _ in prompts], None
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    fed, fed_positions = tokens.to(device), positions.to(device)
    mask = mask.to(device)
    for _ in range(limit):
        result = model(input_ids=fed, attention_mask=mask, position_ids=fed_positions, past_key_values=cache, use_cache=True)
        cache = result.past_key_values
        logits = result.logits[:, -1].float().cpu()
        chosen = []
        for row, output in enumerate(outputs):
            if output and output[-1] in END_IDS:
                chosen.append(0)
                continue
            chosen.append(_pick(logits[row], generators[row], temperature, top_k, top_p))
            output.append(chosen[-1])
        if all(output[-1] in END_IDS for output in outputs):
            break
        fed = torch.tensor(chosen, device=device)[:, None]
        fed_positions = fed_positions[:, -1:] + 1
        mask = torch.cat((mask, mask.new_ones(len(prompts), 1)), dim=1)
    return outputs
