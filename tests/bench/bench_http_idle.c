/*
 * What idle connections cost a running server: memory each, and CPU time while they wait.
 *
 *   bench_http_idle PORT PID [CONNECTIONS [SECONDS]]
 *
 * Each connection has made one request and then waits. Memory is the growth of the process's
 * resident set, CPU its user and system time by /proc.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"

static long resident_bytes(int pid)
{
    char path[64];
    long pages = 0, skipped;
    snprintf(path, sizeof path, "/proc/%d/statm", pid);
    FILE *f = fopen(path, "r");
    if (!f || fscanf(f, "%ld %ld", &skipped, &pages) != 2) {
        perror(path);
        exit(1);
    }
    fclose(f);
    return pages * sysconf(_SC_PAGESIZE);
}

static double cpu_seconds(int pid)
{
    char path[64], line[1024] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *f = fopen(path, "r");
    if (!f || !fgets(line, sizeof line, f)) {
        perror(path);
        exit(1);
    }
    fclose(f);
    unsigned long user = 0, system = 0;
    const char *at = strrchr(line, ')');
    if (!at ||
        sscanf(at + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
        exit(1);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static int open_idle(int port)
{
    static const char request[] = "GET /health HTTP/1.1\r\nHost: bench\r\n\r\n";
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    char reply[1024];
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
        send(fd, request, sizeof request - 1, 0) < 0 || recv(fd, reply, sizeof reply, 0) <= 0) {
        perror("connection");
        exit(1);
    }
    if (strncmp(reply, "HTTP/1.1 200", 12) != 0) {
        fprintf(stderr, "the server refuses: %.40s\n", reply);
        exit(1);
    }
    return fd;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "bench_http_idle PORT PID [CONNECTIONS [SECONDS]]\n");
        return 2;
    }
    int port = atoi(argv[1]), pid = atoi(argv[2]);
    int n = argc > 3 ? atoi(argv[3]) : 1000, seconds = argc > 4 ? atoi(argv[4]) : 5;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    int *fds = mem_new((size_t)n, sizeof *fds);
    fds[0] = open_idle(port);
    long before = resident_bytes(pid);
    for (int i = 1; i < n; i++)
        fds[i] = open_idle(port);
    long after = resident_bytes(pid);
    double cpu = cpu_seconds(pid);
    sleep((unsigned)seconds);
    cpu = cpu_seconds(pid) - cpu;
    printf("%d idle connections: %ld bytes each; %.3f s of CPU in %d s\n", n,
           (after - before) / (n > 1 ? n - 1 : 1), cpu, seconds);
    for (int i = 0; i < n; i++)
        close(fds[i]);
    free(fds);
    return 0;
}
