/* nic: the guest's network as its configuration says: devices named eth0 ... by
 * their MAC, MTU, addresses, routes, loopback, and the few sysctls that go with it.
 * Nothing is asked of the network (no DHCP, no DAD, no router advertisements): the
 * scheduler handed out everything. */
#ifndef UMLAUT_GUEST_INIT_NIC_H
#define UMLAUT_GUEST_INIT_NIC_H

#include "lib/err.h"
#include "proto/umlaut.pb-c.h"

int nic_apply(const Um__GuestConfig *config, struct err *err);

#endif
