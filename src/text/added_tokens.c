#include "text/added_tokens.h"

#include <stdlib.h>

#include "base/mem.h"
#include "text/unicode.h"

void added_tokens_fini(struct added_tokens *a)
{
    free(a->token);
    trie_fini(&a->raw);
    trie_fini(&a->normalized);
    *a = (struct added_tokens){0};
}

int added_tokens_add(struct added_tokens *a, struct added_token token, const char *text, size_t n)
{
    if (trie_add(token.normalized ? &a->normalized : &a->raw, text, n, (int32_t)a->n) < 0)
        return -1;
    a->token = mem_reserve(a->token, &a->cap, a->n + 1, sizeof *a->token);
    a->token[a->n++] = token;
    return 0;
}

static int word_before(const char *s, size_t at)
{
    if (at == 0)
        return 0;
    size_t len = unicode_len_before(s, at);
    return unicode_is_word(unicode_at(s + at - len, len, &len));
}

static int word_behind(const char *s, size_t n, size_t at)
{
    size_t len;
    return at < n && unicode_is_word(unicode_at(s + at, n - at, &len));
}

/* Where the white space in front of `at` begins, not before `low`. */
static size_t space_begin(const char *s, size_t low, size_t at)
{
    while (at > low) {
        size_t len = unicode_len_before(s, at), again;
        if (len > at - low || !unicode_is_space(unicode_at(s + at - len, len, &again)))
            break;
        at -= len;
    }
    return at;
}

static size_t space_end(const char *s, size_t n, size_t at)
{
    size_t len;
    while (at < n && unicode_is_space(unicode_at(s + at, n - at, &len)))
        at += len;
    return at;
}

/* The next token at or behind *search that counts; *search moves behind what was found. */
static const struct added_token *find(const struct added_tokens *a, const struct trie *trie,
                                      int with_special, const char *s, size_t n, size_t *search,
                                      size_t *begin, size_t *end)
{
    size_t i = *search;
    while (i < n) {
        size_t len;
        if (trie->root[(unsigned char)s[i]] == 0) {
            i++;
            continue;
        }
        int32_t found = trie_longest(trie, s + i, n - i, &len);
        if (found < 0) {
            i++;
            continue;
        }
        const struct added_token *token = &a->token[found];
        *begin = i;
        *end = *search = i += len;
        if (token->special && !with_special)
            continue;
        if (token->single_word && (word_before(s, *begin) || word_behind(s, n, *end)))
            continue;
        return token;
    }
    *search = n;
    return NULL;
}

int added_tokens_next(const struct added_tokens *a, int normalized, int with_special,
                      const char *text, size_t n, struct added_walk *walk,
                      struct added_split *split)
{
    if (walk->has_pending) {
        *split = walk->pending;
        walk->has_pending = 0;
        return 1;
    }
    const struct trie *trie = normalized ? &a->normalized : &a->raw;
    size_t begin, end;
    const struct added_token *token =
        trie->n_nodes == 0 ? NULL
                           : find(a, trie, with_special, text, n, &walk->search, &begin, &end);
    if (!token) {
        *split = (struct added_split){walk->at, n, -1};
        walk->at = n;
        walk->search = n;
        return split->begin < n;
    }
    if (token->lstrip)
        begin = space_begin(text, walk->at, begin);
    if (token->rstrip)
        end = space_end(text, n, end);
    walk->pending = (struct added_split){begin, end, token->id};
    walk->has_pending = begin > walk->at;
    *split = walk->has_pending ? (struct added_split){walk->at, begin, -1} : walk->pending;
    walk->at = end;
    return 1;
}
