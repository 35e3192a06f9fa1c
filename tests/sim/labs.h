/* labs: what users of the simulator ask for. */
#ifndef UMLAUT_TESTS_SIM_LABS_H
#define UMLAUT_TESTS_SIM_LABS_H

#define LABS_MAX 4
#define LAB_VARIANTS 12

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
	USER_HOST_GIVE_UP /* host rm --force, and its machine is set up anew */
};

#endif
