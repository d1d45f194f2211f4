/* threads.h - private to kernels/: the worker threads of one CPU exec, and how they divide an op's work.
 *
 * An op is a range 0 .. n-1 of independent items and a body that every thread runs: it takes one run of items after
 * the other until none is left. Each thread first takes its own slice of the range, front to back (so a thread meets
 * the same weights step after step, and reads them in memory order); then it takes what is left at the back of the
 * others' slices. The caller takes part and returns when all items are done, so it waits only for items that somebody
 * is working on, never for a thread that the system has not let run.
 *
 * This is why it is not OpenMP: a parallel region there ends when every thread of the team has arrived. When anything
 * else wants a core, be it our own HTTP thread, one missing thread costs a time slice of the scheduler (measured:
 * 4 ms per region on two shared cores, against 10 us of work), and libgomp spins on the cores for milliseconds
 * meanwhile.
 *
 * Idle workers spin for THREADS_SPIN_NS, which bridges the gaps between the ops of a step, and then sleep. */
#pragma once

struct threads; /* owned: the workers */
struct share;   /* what one thread still has to take; valid inside the body */

typedef void threads_body(void *arg, struct share *share);

/* n threads in all, the caller being one. NULL when the system has no memory or no threads left. */
struct threads *threads_open(int n);
void threads_close(struct threads *t); /* NULL is fine */

/* Runs body over 0 .. n-1, at most `grain` items at a time. Any one thread at a time may call it. */
void threads_run(struct threads *t, int n, int grain, threads_body *body, void *arg);

/* The next items *first .. *last - 1; false when there are none. Called by the body, until it is false. */
int threads_take(struct share *share, int *first, int *last);

/* Which thread this is: 0 (the caller) .. n-1. */
int threads_id(const struct share *share);
