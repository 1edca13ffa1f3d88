/* kill.h - kill -9 at every step. Includes of ours come after this file: SHMQ_STEP, which stands between the stores of the
 * headers, is compiled in here. A forked child counts its steps and kills itself at the n-th; the other end lives on in
 * the parent. */
#ifndef KILL_H
#define KILL_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

static void step(int place);
#define SHMQ_STEP() step(__COUNTER__)

#include "shmq/native/wait.h"

#include "check.h"

#include <sys/mman.h>
#include <sys/wait.h>

enum { NOBODY = -1, MANY_PLACES = 1024, MAX_STEPS = 150 };

/* What survives a death: how far the killed end had come, by its own account. */
typedef struct {
    uint64_t tried, done; /* number of the first unit after the call that began, that ended */
    uint64_t died_at[MANY_PLACES];
} journal;

static journal *shared;
static int64_t steps_to_live = -1; /* of this process; < 0: it is not to die */

static void step(int place)
{
    if (steps_to_live < 0 || steps_to_live-- > 0)
        return;
    shared->died_at[place % MANY_PLACES]++;
    kill(getpid(), SIGKILL);
}

static inline void *share(uint64_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED);
    return at;
}

/* How many different steps were somebody's last. */
static inline uint64_t places(void)
{
    uint64_t n = 0;
    for (int i = 0; i < MANY_PLACES; i++)
        n += shared->died_at[i] != 0;
    return n;
}

static inline bool sleep_a_little(shmq_cell *cell, bool (*ready)(void *), void *arg)
{
    shmq_wait_policy policy = shmq_wait_default(SHMQ_WAIT_PARK);
    return shmq_cell_wait(cell, policy, INT64_MAX, 2000000, ready, arg) == SHMQ_OK;
}

static inline bool ended(pid_t child)
{
    int status;
    if (child <= 0 || waitpid(child, &status, WNOHANG) != child)
        return false;
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    return true;
}

/* Fork a child that works from unit `number` on and dies at its n-th step. Its peer is 0: it works until it dies. */
static inline pid_t mortal(uint64_t (*work)(uint64_t number, pid_t peer, uint64_t enough), uint64_t number, int64_t steps)
{
    shared->tried = shared->done = number;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child)
        return child;
    steps_to_live = steps;
    work(number, 0, UINT64_MAX);
    _exit(1);
}

#endif
