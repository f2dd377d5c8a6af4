#include "text/protobuf.h"

#include <string.h>

enum wire_type { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_LENGTH = 2, WIRE_FIXED32 = 5 };

void protobuf_init(struct protobuf *p, const void *bytes, size_t n)
{
    *p = (struct protobuf){.at = bytes, .end = (const uint8_t *)bytes + n};
}

static uint64_t read_varint(struct protobuf *p)
{
    uint64_t value = 0;
    for (int shift = 0; shift < 64 && p->at < p->end; shift += 7) {
        uint8_t byte = *p->at++;
        value |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80)
            return value;
    }
    p->damaged = 1;
    return 0;
}

static uint64_t read_fixed(struct protobuf *p, size_t n)
{
    uint64_t value = 0;
    if ((size_t)(p->end - p->at) < n) {
        p->damaged = 1;
        return 0;
    }
    for (size_t i = 0; i < n; i++)
        value |= (uint64_t)*p->at++ << 8 * i;
    return value;
}

int protobuf_next(struct protobuf *p, struct protobuf_field *field)
{
    *field = (struct protobuf_field){0};
    if (p->damaged || p->at == p->end)
        return 0;
    uint64_t key = read_varint(p);
    field->number = (uint32_t)(key >> 3);
    switch (key & 7) {
    case WIRE_VARINT:
        field->value = read_varint(p);
        break;
    case WIRE_FIXED64:
        field->value = read_fixed(p, 8);
        break;
    case WIRE_FIXED32:
        field->value = read_fixed(p, 4);
        break;
    case WIRE_LENGTH:
        field->value = read_varint(p);
        if (field->value > (size_t)(p->end - p->at)) {
            p->damaged = 1;
            break;
        }
        field->bytes = (const char *)p->at;
        field->n = (size_t)field->value;
        p->at += field->n;
        break;
    default:
        p->damaged = 1;
    }
    if (key >> 3 == 0 || key >> 3 > UINT32_MAX)
        p->damaged = 1;
    return !p->damaged;
}

float protobuf_float(const struct protobuf_field *field)
{
    uint32_t bits = (uint32_t)field->value;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
