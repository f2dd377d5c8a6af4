/* Stands in for the chat templates where text/ has none: writes roles and contents in a row. */
#include <stdlib.h>

#include "base/mem.h"
#include "text/template.h"

struct chat_format {
    int unused;
};

int chat_format_open(struct chat_format **out, const char *model_dir, const char *template_file,
                     struct moed_error *err)
{
    *out = mem_new(1, sizeof **out);
    return 0;
}

void chat_format_close(struct chat_format **f)
{
    free(*f);
    *f = NULL;
}

int chat_format_render(const struct chat_format *f, const struct chat_input *in, struct buf *out,
                       struct moed_error *err)
{
    size_t i;
    json_t *message;
    buf_puts(out, "<|bos|>");
    json_array_foreach(in->messages, i, message)
    {
        const json_t *content = json_object_get(message, "content");
        buf_printf(out, "<|%s|>", json_string_value(json_object_get(message, "role")));
        buf_add(out, json_string_value(content), json_string_length(content));
        if (!in->continue_final_message || i + 1 < json_array_size(in->messages))
            buf_puts(out, "<|eos|>");
    }
    if (in->add_generation_prompt)
        buf_puts(out, "<|assistant|>");
    return 0;
}
