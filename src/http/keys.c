/* API keys: where they come from and how one is recognised. */
#include "http/server_int.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"

#define MAX_KEYS      10000
#define MAX_KEY_BYTES 512

void keys_free(char **keys, size_t n_keys)
{
    for (size_t i = 0; i < n_keys; i++)
        free(keys[i]);
    free(keys);
}

static void add_key(char ***keys, size_t *n_keys, const char *key, size_t n)
{
    *keys = mem_grow(*keys, *n_keys + 1, sizeof **keys);
    (*keys)[(*n_keys)++] = mem_strndup(key, n);
}

static int read_file(char ***keys, size_t *n_keys, const char *path, struct moed_error *err)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return moed_fail(err, MOED_EIO, "API key file '%s': %s", path, strerror(errno));
    char line[MAX_KEY_BYTES + 2];
    int rc = 0;
    while (rc == 0 && fgets(line, sizeof line, f)) {
        size_t n = strlen(line);
        if (n == sizeof line - 1 && line[n - 1] != '\n')
            rc = moed_fail(err, MOED_ELIMIT, "API key file '%s': a line is longer than %d bytes",
                           path, MAX_KEY_BYTES);
        char *key = line + strspn(line, " \t\r\n");
        size_t length = strcspn(key, " \t\r\n");
        if (rc < 0 || length == 0 || *key == '#')
            continue;
        if (*n_keys == MAX_KEYS)
            rc =
                moed_fail(err, MOED_ELIMIT, "API key file '%s': more than %d keys", path, MAX_KEYS);
        else
            add_key(keys, n_keys, key, length);
    }
    if (rc == 0 && ferror(f))
        rc = moed_fail(err, MOED_EIO, "API key file '%s': it cannot be read", path);
    fclose(f);
    return rc;
}

int keys_load(char ***keys, size_t *n_keys, const struct http_config *cfg, struct moed_error *err)
{
    *keys = NULL;
    *n_keys = 0;
    int rc = 0;
    for (size_t i = 0; i < cfg->n_api_keys; i++) {
        if (!*cfg->api_keys[i])
            rc = moed_fail_param(err, MOED_EINVAL, "api-key", "an API key is empty");
        add_key(keys, n_keys, cfg->api_keys[i], strlen(cfg->api_keys[i]));
    }
    if (rc == 0 && cfg->api_key_file)
        rc = read_file(keys, n_keys, cfg->api_key_file, err);
    /* An empty list means 'no key needed', so a file that was to protect must not turn into that.
     */
    if (rc == 0 && cfg->api_key_file && *n_keys == 0)
        rc = moed_fail(err, MOED_EINVAL, "API key file '%s' holds no key", cfg->api_key_file);
    if (rc < 0) {
        keys_free(*keys, *n_keys);
        *keys = NULL;
        *n_keys = 0;
    }
    return rc;
}

/* Takes a time that depends on the lengths only. */
static unsigned differs(const char *key, size_t n_key, const char *given, size_t n)
{
    unsigned d = n_key != n;
    for (size_t i = 0; i < n; i++)
        d |= (unsigned char)given[i] ^ (unsigned char)key[n_key ? i % n_key : 0];
    return d;
}

int keys_find(char *const *keys, size_t n_keys, struct http_slice authorization)
{
    static const char scheme[] = "Bearer ";
    struct http_slice given = authorization;
    if (given.n < sizeof scheme - 1 || strncasecmp(given.at, scheme, sizeof scheme - 1) != 0)
        return -1;
    given.at += sizeof scheme - 1;
    given.n -= sizeof scheme - 1;
    while (given.n && *given.at == ' ')
        given.at++, given.n--;
    int found = -1;
    for (size_t i = 0; i < n_keys; i++)
        if (!differs(keys[i], strlen(keys[i]), given.at, given.n) && given.n)
            found = (int)i;
    return found;
}
