/* Reading protobuf messages field by field (the encoding of protobuf.dev, "Encoding"). */
#ifndef MOED_TEXT_PROTOBUF_H
#define MOED_TEXT_PROTOBUF_H

#include <stddef.h>
#include <stdint.h>

struct protobuf {
    const uint8_t *at, *end;
    int damaged; /* set where a field does not fit the bytes; reading then ends */
};

struct protobuf_field {
    uint32_t number;
    uint64_t value;    /* of a varint or fixed field */
    const char *bytes; /* of a field with length: n bytes; otherwise NULL */
    size_t n;
};

void protobuf_init(struct protobuf *p, const void *bytes, size_t n);
/* 1 with the next field, 0 at the end or where the bytes are damaged. */
int protobuf_next(struct protobuf *p, struct protobuf_field *field);
/* The value of a fixed 32-bit field as float. */
float protobuf_float(const struct protobuf_field *field);

#endif
