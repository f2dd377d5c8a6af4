/* The version of the library and of the program. */
#ifndef MOED_VERSION_H
#define MOED_VERSION_H

/* A string such as "0.1.0"; static, never NULL. */
const char *moed_version(void);

#endif
