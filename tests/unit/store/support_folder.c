#include "support_folder.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"

void folder_make(struct folder *f)
{
    const char *tmp = "/tmp";
    snprintf(f->path, sizeof f->path, "%s/moed-store-XXXXXX", tmp);
    if (!mkdtemp(f->path))
        abort();
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

void folder_remove(struct folder *f)
{
    nftw(f->path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

void folder_write(const struct folder *f, const char *name, const void *bytes, size_t n)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", f->path, name);
    FILE *out = fopen(path, "wb");
    if (!out || fwrite(bytes, 1, n, out) != n || fclose(out) != 0)
        abort();
}

void folder_text(const struct folder *f, const char *name, const char *text)
{
    folder_write(f, name, text, strlen(text));
}

void folder_tensors_length(const struct folder *f, const char *name, uint64_t length,
                           const char *header, size_t data_bytes)
{
    struct buf b = {0};
    for (int i = 0; i < 8; i++)
        buf_putc(&b, (char)(length >> (8 * i)));
    buf_puts(&b, header);
    for (size_t i = 0; i < data_bytes; i++)
        buf_putc(&b, (char)i);
    folder_write(f, name, b.data, b.len);
    buf_fini(&b);
}

void folder_tensors(const struct folder *f, const char *name, const char *header, size_t data_bytes)
{
    folder_tensors_length(f, name, strlen(header), header, data_bytes);
}
