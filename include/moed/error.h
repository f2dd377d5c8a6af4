/*
 * Errors, as every part of moed reports them.
 *
 * A function that can fail returns 0 (or a count) on success and a negative moed_code otherwise;
 * its last parameter is a struct moed_error that then holds the reason in words. The caller owns
 * the struct; NULL is allowed where the words do not matter. Nothing else is kept: there is no
 * errno-like global.
 */
#ifndef MOED_ERROR_H
#define MOED_ERROR_H

#include <stdarg.h>

enum moed_code {
    MOED_OK = 0,
    MOED_EINVAL = -1,        /* a parameter from outside is wrong; param names it */
    MOED_EFORMAT = -2,       /* a file does not hold what its format promises */
    MOED_EIO = -3,           /* the operating system refused a read, write, map, thread */
    MOED_ENOMEM = -4,        /* memory that was planned could not be had */
    MOED_ENOTFOUND = -5,     /* a file, tensor, model or endpoint that is not there */
    MOED_ELIMIT = -6,        /* larger, deeper or longer than a stated limit */
    MOED_EBUSY = -7,         /* a queue is full; try again later */
    MOED_ECANCELED = -8,     /* the caller took the work back */
    MOED_EDEADLINE = -9,     /* the work's own time limit passed */
    MOED_EUNSUPPORTED = -10, /* well formed, but nothing here can do it */
    MOED_EDEVICE = -11,      /* the device failed; sticky, the process should be restarted */
    MOED_ECLOSED = -12,      /* shutting down: nothing new is taken */
    MOED_EINTERNAL = -13,    /* a promise inside moed was broken */
    MOED_ETIMEDOUT = -14,    /* a step waited too long for a part of itself; it may be run again */
};

struct moed_error {
    int code;       /* the moed_code that the function returned */
    char param[64]; /* the request field, option or tensor at fault; empty if none */
    char text[832]; /* one sentence for people, without a newline */
};

/* Fills *err (which may be NULL) and returns code, so that `return moed_fail(...)` reads as one
 * thing. */
int moed_fail(struct moed_error *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The same, naming the parameter at fault. */
int moed_fail_param(struct moed_error *err, int code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Puts "context: " in front of the words already in *err; returns err's code (code if err is NULL).
 */
int moed_fail_in(struct moed_error *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* A short name for a code, "invalid" for MOED_EINVAL; static. */
const char *moed_code_name(int code);

#endif
