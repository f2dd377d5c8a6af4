/* Messages to the supervisor: systemd's notification protocol (sd_notify(3)), a datagram to
 * $NOTIFY_SOCKET. */
#ifndef MOED_CLI_NOTIFY_H
#define MOED_CLI_NOTIFY_H

/*
 * Sends state lines such as "READY=1\nSTATUS=serving". Without a supervisor nothing happens. A
 * message that cannot be sent is logged and otherwise ignored. Any thread.
 */
void notify_supervisor(const char *state);

#endif
