/* Finding and reading a tokenizer's files. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "text/tokenizer_impl.h"

enum {
    MAX_TOKENIZER_BYTES = 512 << 20,
    MAX_CONFIG_BYTES = 16 << 20,
    MAX_POPULATE_BYTES = 64 << 20,
};

/* A file, mapped. */
struct file {
    char *bytes;
    size_t n;
};

static void file_close(struct file *f)
{
    if (f->bytes && f->n > 0)
        munmap(f->bytes, f->n);
    *f = (struct file){0};
}

static int file_open(struct file *f, const char *path, size_t max_bytes, struct moed_error *err)
{
    *f = (struct file){0};
    struct stat st;
    int rc = 0, fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return moed_fail(err, errno == ENOENT ? MOED_ENOTFOUND : MOED_EIO, "%s: %s", path,
                         strerror(errno));
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        rc = moed_fail(err, MOED_EIO, "%s is not a file", path);
    } else if ((uint64_t)st.st_size > max_bytes) {
        rc = moed_fail(err, MOED_ELIMIT, "%s is larger than %zu bytes", path, max_bytes);
    } else if (st.st_size > 0) {
        f->n = (size_t)st.st_size;
        /* A GGUF file is mostly tensors, which nobody reads here. */
        int populate = f->n <= MAX_POPULATE_BYTES ? MAP_POPULATE : 0;
        f->bytes = mmap(NULL, f->n, PROT_READ, MAP_PRIVATE | populate, fd, 0);
        if (f->bytes == MAP_FAILED) {
            f->bytes = NULL;
            rc = moed_fail(err, MOED_EIO, "%s: %s", path, strerror(errno));
        }
    }
    close(fd);
    return rc;
}

/* Told from the first bytes: GGUF's magic, JSON's brace, a protobuf field 1 of a message (a
 * SentencePiece model starts with its pieces), base64 lines. */
static enum tokenizer_format guess_format(const char *bytes, size_t n)
{
    size_t i = 0;
    if (n >= 4 && memcmp(bytes, "GGUF", 4) == 0)
        return TOKENIZER_GGUF;
    if (n >= 2 && bytes[0] == '\n' && bytes[1] != '{')
        return TOKENIZER_SENTENCEPIECE;
    while (i < n && strchr(" \t\r\n", bytes[i]) && bytes[i])
        i++;
    return i < n && bytes[i] == '{' ? TOKENIZER_HF_JSON : TOKENIZER_TIKTOKEN;
}

int tokenizer_parse(struct tokenizer **out, enum tokenizer_format format, const char *bytes,
                    size_t n_bytes, const char *config_json, size_t n_config,
                    struct moed_error *err)
{
    *out = NULL;
    json_t *config = NULL;
    json_error_t why;
    if (format == TOKENIZER_AUTO)
        format = guess_format(bytes, n_bytes);
    /* Of a GGUF file only the metadata is read. */
    if ((n_bytes > MAX_TOKENIZER_BYTES && format != TOKENIZER_GGUF) || n_config > MAX_CONFIG_BYTES)
        return moed_fail(err, MOED_ELIMIT, "a tokenizer of %zu bytes", n_bytes);
    /* Whole numbers as reals: model_max_length is often beyond 64 bits. */
    if (config_json && !(config = json_loadb(config_json, n_config, JSON_DECODE_INT_AS_REAL, &why)))
        return moed_fail(err, MOED_EFORMAT, "tokenizer_config.json, line %d: %s", why.line,
                         why.text);
    struct tokenizer *t = tokenizer_new(n_bytes + n_config);
    int rc = MOED_EINVAL;
    switch (format) {
    case TOKENIZER_AUTO:
        break;
    case TOKENIZER_HF_JSON:
        rc = tokenizer_read_json(t, bytes, n_bytes, config, err);
        break;
    case TOKENIZER_SENTENCEPIECE:
        rc = tokenizer_read_sentencepiece(t, bytes, n_bytes, config, err);
        break;
    case TOKENIZER_TIKTOKEN:
        rc = tokenizer_read_tiktoken(t, bytes, n_bytes, config, err);
        break;
    case TOKENIZER_GGUF:
        rc = tokenizer_read_gguf(t, bytes, n_bytes, config, err);
        break;
    }
    json_decref(config);
    if (rc < 0)
        tokenizer_close(&t);
    *out = t;
    return rc;
}

static int is_folder(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static int ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), n_end = strlen(end);
    return n >= n_end && strcmp(name + n - n_end, end) == 0;
}

/* How good a file is as the tokenizer of a folder, 0 for none: tokenizer.json is what most
 * libraries read, so it comes first. */
static int rank_name(const char *name)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer.model", "tiktoken.model"};
    for (int i = 0; i < 3; i++)
        if (strcmp(name, names[i]) == 0)
            return 10 - i;
    if (ends_with(name, ".tiktoken"))
        return 4;
    if (strncmp(name, "tokenizer.model.", 16) == 0)
        return 3;
    if (ends_with(name, ".model"))
        return 2;
    return ends_with(name, ".gguf");
}

/* The best tokenizer file of a folder; of equally good ones the first by name. free() it. */
static char *find_in_folder(const char *folder)
{
    struct dirent **names = NULL;
    int n = scandir(folder, &names, NULL, alphasort), best = 0;
    char *path = NULL;
    for (int i = 0; i < n; i++) {
        int rank = rank_name(names[i]->d_name);
        if (rank > best) {
            best = rank;
            free(path);
            path = mem_printf("%s/%s", folder, names[i]->d_name);
        }
        free(names[i]);
    }
    free(names);
    return path;
}

int tokenizer_open(struct tokenizer **out, const char *path, struct moed_error *err)
{
    *out = NULL;
    struct file file = {0}, config = {0};
    int from_folder = is_folder(path), rc;
    char *name = from_folder ? find_in_folder(path) : mem_strdup(path), *config_name = NULL;
    if (!name)
        return moed_fail(err, MOED_ENOTFOUND,
                         "%s holds no tokenizer (tokenizer.json, "
                         "tokenizer.model, *.tiktoken)",
                         path);
    if ((rc = file_open(&file, name, SIZE_MAX, err)) < 0)
        goto out;
    if (from_folder) {
        config_name = mem_printf("%s/tokenizer_config.json", path);
        rc = file_open(&config, config_name, MAX_CONFIG_BYTES, err);
        if (rc < 0 && rc != MOED_ENOTFOUND)
            goto out;
    }
    rc = tokenizer_parse(out, TOKENIZER_AUTO, file.bytes ? file.bytes : "", file.n, config.bytes,
                         config.n, err);
    if (rc < 0)
        rc = moed_fail_in(err, rc, "%s", name);
out:
    file_close(&file);
    file_close(&config);
    free(name);
    free(config_name);
    return rc;
}
