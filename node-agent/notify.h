/* notify: tells systemd how the service is (sd_notify(3), the NOTIFY_SOCKET
 * protocol), without its library. */
#ifndef UMLAUT_NODE_AGENT_NOTIFY_H
#define UMLAUT_NODE_AGENT_NOTIFY_H

/* STATE: "READY=1", "STOPPING=1".  Does nothing when SOCKET (the value of
 * NOTIFY_SOCKET) is NULL or empty.  0 or -errno. */
int notify_send(const char *socket, const char *state);

#endif
