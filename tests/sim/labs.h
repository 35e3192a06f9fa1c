/* labs: what users of the simulator ask for. */
#ifndef UMLAUT_TESTS_SIM_LABS_H
#define UMLAUT_TESTS_SIM_LABS_H

#define LABS_MAX 4
#define LAB_VARIANTS 15
#define LAB_TOGETHER 12 /* from here on: guests that are to be with one another */

enum user_verb {
	USER_APPLY,
	USER_DELETE,
	USER_STOP,
	USER_START,
	USER_RESTART,
	USER_MIGRATE,
	USER_STAY,   /* cancels a move */
	USER_PRUNE,  /* old disks, of all labs or one guest */
	USER_CORDON, /* from here on of hosts */
	USER_UNCORDON,
	USER_HOST_REMOVE,
	USER_DRAIN,
	USER_DRAIN_STOP,
	USER_HOST_GIVE_UP, /* host rm --force, and its machine is set up anew */
	USER_RECOVER	   /* a guest of a host that is off for so long */
};

#endif
