/* What stands in for three libraries of ZeroMQ's in a clusterctl that is linked with the
 * archive libzmq.a: OpenPGM, NORM and GSSAPI (Kerberos).  Umlaut opens no such transport, and
 * loading them, and what they load, is two thirds of the time that clusterctl takes to start.
 *
 * The makefile finds the names in libzmq.a and gives each of them the address of
 * zmq_left_out() or of zmq_left_out_data (build/link/zmq.ld); clusterctl/link is no room. */
#include <stdio.h>
#include <stdlib.h>

/* ZeroMQ calls these two for every context: true, as of pgm/engine.h. */
int pgm_init(void *error);
int pgm_shutdown(void);
void zmq_left_out(void);
extern const char *const zmq_left_out_data[2];

const char *const zmq_left_out_data[2] = {NULL, NULL};

int pgm_init(void *error)
{
	(void)error;
	return 1;
}

int pgm_shutdown(void)
{
	return 1;
}

/* Nothing that Umlaut does comes here: it connects to tcp, ipc and inproc with CURVE. */
void zmq_left_out(void)
{
	(void)fputs("clusterctl: a transport of ZeroMQ was asked for that is not in this program "
		    "(make SHARED=1 has it)\n",
		stderr);
	abort();
}
