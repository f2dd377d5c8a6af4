/* Request bodies as JSON: limits first, then jansson. */
#include <string.h>

#include "base/utf8.h"
#include "http/api.h"

/* Depth and number of values, told from the bytes outside strings before anything is allocated:
 * jansson spends up to a hundred bytes on two of the body. */
static int check_shape(const char *body, size_t n, struct moed_error *err)
{
    size_t depth = 0, containers = 0, values = 1;
    for (size_t i = 0; i < n; i++) {
        switch (body[i]) {
        case '"':
            for (i++; i < n && body[i] != '"'; i++)
                i += body[i] == '\\';
            break;
        case '{':
        case '[':
            containers++;
            values++;
            if (++depth > API_MAX_DEPTH)
                return moed_fail(err, MOED_EINVAL, "the body nests deeper than %d levels",
                                 API_MAX_DEPTH);
            break;
        case '}':
        case ']':
            depth -= depth > 0;
            break;
        case ',':
        case ':':
            values++;
            break;
        }
    }
    if (containers > API_MAX_CONTAINERS || values > API_MAX_VALUES)
        return moed_fail(err, MOED_EINVAL,
                         "the body has more than %d arrays and objects or %d values",
                         API_MAX_CONTAINERS, API_MAX_VALUES);
    return 0;
}

int api_json_read(json_t **out, const char *body, size_t n, struct moed_error *err)
{
    *out = NULL;
    if (n == 0)
        return moed_fail(err, MOED_EINVAL, "the body is empty; a JSON object is expected");
    size_t valid = utf8_valid_prefix(body, n);
    if (valid < n)
        return moed_fail(err, MOED_EINVAL, "the body is not UTF-8 (byte %zu)", valid);
    int rc = check_shape(body, n, err);
    if (rc < 0)
        return rc;
    json_error_t error;
    json_t *root = json_loadb(body, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (!root)
        return moed_fail(err, MOED_EINVAL, "the body is not valid JSON: %s (line %d, column %d)",
                         error.text, error.line, error.column);
    if (!json_is_object(root)) {
        json_decref(root);
        return moed_fail(err, MOED_EINVAL, "the body must be a JSON object");
    }
    *out = root;
    return 0;
}
