/* JSON files of a model folder: sizes, depth and number of values are known before jansson sees the
 * text. */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "store/store_int.h"

#define MAX_JSON_VALUES ((size_t)8 << 20)

int store_open_file(int *fd, uint64_t *bytes, const char *path, struct moed_error *err)
{
    /* O_NONBLOCK: opening a pipe by that name must not hang. */
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0)
        return moed_fail(err, errno == ENOENT ? MOED_ENOTFOUND : MOED_EIO, "%s: %s", path,
                         strerror(errno));
    struct stat st;
    int rc = 0;
    if (fstat(*fd, &st) != 0)
        rc = moed_fail(err, MOED_EIO, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        rc = moed_fail(err, MOED_EIO, "%s: not a regular file", path);
    else
        *bytes = (uint64_t)st.st_size;
    if (rc < 0) {
        close(*fd);
        *fd = -1;
    }
    return rc;
}

int store_read_exactly(int fd, uint64_t offset, void *dst, size_t n, const char *path,
                       struct moed_error *err)
{
    for (size_t got = 0; got < n;) {
        ssize_t k = pread(fd, (char *)dst + got, n - got, (off_t)(offset + got));
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return moed_fail(err, MOED_EIO, "%s: reading at byte %llu: %s", path,
                             (unsigned long long)(offset + got), strerror(errno));
        if (k == 0)
            return moed_fail(err, MOED_EFORMAT, "%s: the file ends at byte %llu, in the middle",
                             path, (unsigned long long)(offset + got));
        got += (size_t)k;
    }
    return 0;
}

/*
 * The nesting of a text and an upper bound of its values: every value but the first follows a
 * comma, a colon or an opening bracket. Exact for valid JSON; for other text jansson says what is
 * wrong.
 */
static void measure(const char *text, size_t n, size_t *depth_max, size_t *values)
{
    size_t depth = 0;
    bool in_string = false;
    *depth_max = *values = 0;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            ++*values;
            if (++depth > *depth_max)
                *depth_max = depth;
        } else if (c == '}' || c == ']') {
            depth -= depth > 0;
        } else if (c == ',' || c == ':') {
            ++*values;
        }
    }
}

int store_parse_json(json_t **out, const char *text, size_t n, size_t max_depth, size_t max_values,
                     const char *file, struct moed_error *err)
{
    *out = NULL;
    size_t depth, values;
    measure(text, n, &depth, &values);
    if (depth > max_depth)
        return moed_fail(err, MOED_ELIMIT, "%s: JSON nested %zu deep, the limit is %zu", file,
                         depth, max_depth);
    if (values > max_values)
        return moed_fail(err, MOED_ELIMIT, "%s: JSON of %zu values, the limit is %zu", file, values,
                         max_values);
    json_error_t why;
    json_t *json = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
    if (!json)
        return moed_fail(err, MOED_EFORMAT, "%s: line %d: %s", file, why.line, why.text);
    if (!json_is_object(json)) {
        json_decref(json);
        return moed_fail(err, MOED_EFORMAT, "%s: not a JSON object", file);
    }
    *out = json;
    return 0;
}

int store_read_json(json_t **out, const char *dir, const char *file, struct moed_error *err)
{
    *out = NULL;
    char *path = mem_printf("%s/%s", dir, file);
    char *text = NULL;
    int fd = -1;
    uint64_t bytes = 0;
    int rc = store_open_file(&fd, &bytes, path, err);
    if (rc < 0)
        goto out;
    if (bytes > STORE_MAX_JSON_BYTES) {
        rc = moed_fail(err, MOED_ELIMIT, "%s: %llu bytes, the limit is %zu", path,
                       (unsigned long long)bytes, STORE_MAX_JSON_BYTES);
        goto out;
    }
    text = mem_try((size_t)bytes, 1);
    if (!text) {
        rc = moed_fail(err, MOED_ENOMEM, "%s: no memory for %llu bytes", path,
                       (unsigned long long)bytes);
        goto out;
    }
    rc = store_read_exactly(fd, 0, text, (size_t)bytes, path, err);
    if (rc == 0)
        rc = store_parse_json(out, text, (size_t)bytes, STORE_MAX_JSON_DEPTH, MAX_JSON_VALUES, path,
                              err);
out:
    if (fd >= 0)
        close(fd);
    free(text);
    free(path);
    return rc;
}
