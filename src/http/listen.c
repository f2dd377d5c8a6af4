/* Listening sockets: names, both address families, unix sockets. */
#include "http/server_int.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/mem.h"

#define BACKLOG 1024

/* A socket file that nobody listens on was left by a process that did not end well. */
static bool is_stale(const struct sockaddr_un *address)
{
    struct stat st;
    if (stat(address->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode))
        return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool refused = fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof *address) < 0 &&
                   errno == ECONNREFUSED;
    if (fd >= 0)
        close(fd);
    return refused;
}

static int listen_unix(int *fds, char **unix_path, const char *path, struct moed_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path || !*path)
        return moed_fail_param(err, MOED_EINVAL, "host",
                               "the socket path '%s' is empty or too long", path);
    memcpy(address.sun_path, path, strlen(path));
    if (is_stale(&address))
        unlink(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(fd, BACKLOG) < 0) {
        int error = errno;
        if (fd >= 0)
            close(fd);
        return moed_fail_param(err, MOED_EIO, "host", "cannot listen on 'unix:%s': %s", path,
                               strerror(error));
    }
    *unix_path = mem_strdup(path);
    fds[0] = fd;
    return 1;
}

static int open_one(const struct addrinfo *info, int *port)
{
    int fd = socket(info->ai_family, info->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC,
                    info->ai_protocol);
    if (fd < 0)
        return -1;
    struct sockaddr_storage address;
    socklen_t n = info->ai_addrlen;
    memcpy(&address, info->ai_addr, n);
    in_port_t net_port = htons((uint16_t)*port);
    if (info->ai_family == AF_INET6)
        ((struct sockaddr_in6 *)&address)->sin6_port = net_port;
    else
        ((struct sockaddr_in *)&address)->sin_port = net_port;
    /* "::" means both families, whatever the system's default is. */
    int on = 1, off = 0;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (info->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind(fd, (struct sockaddr *)&address, n) < 0 || listen(fd, BACKLOG) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &n) < 0) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    /* A free port that was picked holds for the other addresses of the name too. */
    *port = ntohs(info->ai_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                              : ((struct sockaddr_in *)&address)->sin_port);
    return fd;
}

int listen_open(int *fds, int *port, char **unix_path, const char *host, struct moed_error *err)
{
    *unix_path = NULL;
    if (strncmp(host, "unix:", 5) == 0)
        return listen_unix(fds, unix_path, host + 5, err);
    if (*port < 0 || *port > 65535)
        return moed_fail_param(err, MOED_EINVAL, "port",
                               "the port must be between 0 and 65535, not %d", *port);
    size_t n = strlen(host);
    bool brackets = n > 2 && host[0] == '[' && host[n - 1] == ']';
    char *name = brackets ? mem_strndup(host + 1, n - 2) : mem_strdup(host);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list = NULL;
    int rc = getaddrinfo(name, NULL, &hints, &list);
    free(name);
    if (rc != 0)
        return moed_fail_param(err, MOED_EINVAL, "host", "the host '%s' is not known: %s", host,
                               gai_strerror(rc));
    int count = 0, error = 0;
    for (const struct addrinfo *i = list; i && count < MAX_LISTENERS; i = i->ai_next) {
        if (i->ai_family != AF_INET && i->ai_family != AF_INET6)
            continue;
        int fd = open_one(i, port);
        if (fd >= 0)
            fds[count++] = fd;
        else
            error = errno;
        if (fd < 0 && error == EADDRINUSE)
            break; /* half a name would send some clients to the other process */
    }
    freeaddrinfo(list);
    while (error == EADDRINUSE && count > 0)
        close(fds[--count]);
    if (count == 0)
        return moed_fail_param(err, MOED_EIO, "host", "cannot listen on %s port %d: %s", host,
                               *port, strerror(error));
    return count;
}
