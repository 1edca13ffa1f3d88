/* kill -9 of two processes that hold, want or clean up a lock, at every step (kill.h), while a third one goes on using it.
 *
 * Checked: a writer is alone; who finds half-done work behind a dead writer was told so; nothing that was done under the
 * lock is lost; nobody hangs; after both deaths the lock is had at once and free again. The C library's lock is lost by a
 * death in it: then that is reported, again and again. usage: lock_kill ROUNDS (of each lock) */
#define _GNU_SOURCE /* as Python.h does: the pthread lock waits by the monotonic clock */
#include <stdint.h>
#define SHMQ_DEATH_CHECK_NS INT64_C(300000)

#include "kill.h"

#include "shmq/native/mutex.h"
#include "shmq/native/prwlock.h"

enum { MORTALS = 2, ME = MORTALS, SPREAD = 60 };

typedef struct {
    uint64_t tried, done; /* writes that began, that ended */
    bool writes, reads;   /* is inside, for certain */
} account;

static struct {
    account accounts[MORTALS + 1];
    uint64_t first, second; /* equal whenever no writer is inside */
    uint64_t base;          /* both, when the round began */
    alignas(SHMQ_LINE) shmq_spinlock spin;
    shmq_mutex mutex;
    shmq_rwlock rw;
    shmq_prwlock prw;
} *world;

static int me;
static uint64_t self;
static shmq_lock_stats stats;
static shmq_rwholder rw;
static shmq_prwholder prw;

/* ---- the locks behind one face; `write` matters to those that know readers */

typedef struct {
    const char *name;
    void (*join)(void);
    int (*acquire)(bool write, int64_t timeout_ns);
    void (*release)(bool write);
    bool (*free)(void);
    bool readers;
} lock_kind;

static void join_exclusive(void)
{
}

static int spin_acquire(bool write, int64_t timeout_ns)
{
    (void)write;
    return shmq_spin_acquire(&world->spin, self, timeout_ns, &stats);
}

static void spin_release(bool write)
{
    (void)write;
    shmq_spin_release(&world->spin);
}

static bool spin_free(void)
{
    return atomic_load(&world->spin.owner) == 0;
}

static int mutex_acquire(bool write, int64_t timeout_ns)
{
    (void)write;
    return shmq_mutex_acquire(&world->mutex, self, timeout_ns, &stats);
}

static void mutex_release(bool write)
{
    (void)write;
    shmq_mutex_release(&world->mutex);
}

static bool mutex_free(void)
{
    return atomic_load(&world->mutex.owner) == 0;
}

static void rw_join(void)
{
    CHECK(shmq_rw_join(&rw, &world->rw, false) == SHMQ_OK);
}

static void futex_join(void)
{
    CHECK(shmq_rw_join(&rw, &world->rw, true) == SHMQ_OK);
}

static int rw_acquire(bool write, int64_t timeout_ns)
{
    return write ? shmq_rw_write_acquire(&rw, timeout_ns) : shmq_rw_read_acquire(&rw, timeout_ns);
}

static void rw_release(bool write)
{
    write ? shmq_rw_write_release(&rw) : shmq_rw_read_release(&rw);
}

static bool rw_free(void)
{
    return atomic_load(&world->rw.word) == 0 && atomic_load(&world->rw.writer) == 0;
}

static void prw_join(void)
{
    CHECK(shmq_prw_join(&prw, &world->prw) == SHMQ_OK);
}

static int prw_acquire(bool write, int64_t timeout_ns)
{
    return shmq_prw_acquire(&prw, write, timeout_ns);
}

static void prw_release(bool write)
{
    (void)write;
    shmq_prw_release(&prw);
}

static const lock_kind kinds[] = {
    {"spin", join_exclusive, spin_acquire, spin_release, spin_free, false},
    {"mutex", join_exclusive, mutex_acquire, mutex_release, mutex_free, false},
    {"rw, spinning", rw_join, rw_acquire, rw_release, rw_free, true},
    {"rw, sleeping", futex_join, rw_acquire, rw_release, rw_free, true},
};
static const lock_kind pthread_kind = {"pthread", prw_join, prw_acquire, prw_release, NULL, true};

/* ---- what is done under a lock */

static void write_inside(bool told)
{
    account *own = &world->accounts[me];
    CHECK(told || world->first == world->second);
    own->writes = true;
    world->second = world->first; /* the repair */
    own->tried++;
    SHMQ_STEP();
    world->first++;
    SHMQ_STEP();
    world->second++;
    own->done++;
    SHMQ_STEP();
    own->writes = false;
}

static void read_inside(bool told)
{
    CHECK(told || world->first == world->second);
    world->accounts[me].reads = true;
    SHMQ_STEP();
    CHECK(told || world->first == world->second);
    world->accounts[me].reads = false;
}

/* One turn: SHMQ_OK, or SHMQ_GONE when a pthread lock is lost. */
static int use(const lock_kind *kind, uint64_t *random)
{
    bool write = !kind->readers || next_random(random) % 2;
    int64_t timeout = next_random(random) % 4 ? -1 : (int64_t)(next_random(random) % 100000);
    int rc = kind->acquire(write, timeout);
    if (rc == SHMQ_GONE)
        return rc;
    CHECK(rc == SHMQ_OK || rc == SHMQ_OWNER_DIED || (rc == SHMQ_TIMEOUT && timeout >= 0));
    if (rc == SHMQ_TIMEOUT)
        return SHMQ_OK;
    (write ? write_inside : read_inside)(rc == SHMQ_OWNER_DIED);
    kind->release(write);
    return SHMQ_OK;
}

/* ---- a round */

static pid_t start_mortal(const lock_kind *kind, int number, int64_t steps)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child)
        return child;
    me = number;
    self = shmq_self_token();
    uint64_t random = (uint64_t)steps * 0x9e3779b97f4a7c15u + (uint64_t)number + 1;
    steps_to_live = steps;
    kind->join();
    while (use(kind, &random) == SHMQ_OK)
        ;
    kill(getpid(), SIGKILL); /* a lost lock: nothing is left to do */
    _exit(1);
}

static void wait_for_a_death(void)
{
    siginfo_t unused;
    CHECK(waitid(P_ALL, 0, &unused, WEXITED | WNOWAIT) == 0);
}

/* Start the round's mortals, and use the lock until they are dead; SHMQ_OK, or SHMQ_GONE when it was lost. In every other
 * round this process stays out, so that one mortal has to clean up after the other, and dies at that. */
static int outlive(const lock_kind *kind, uint64_t round)
{
    pid_t children[MORTALS];
    uint64_t random = (round + 1) * 0x9e3779b97f4a7c15u;
    int rc = SHMQ_OK;
    memset(world->accounts, 0, sizeof world->accounts);
    world->base = world->first;
    for (int i = 0; i < MORTALS; i++)
        children[i] = start_mortal(kind, i, (int64_t)(next_random(&random) % SPREAD));
    for (int left = MORTALS; left;) {
        if (round % 2)
            wait_for_a_death();
        else if (use(kind, &random) == SHMQ_GONE)
            rc = SHMQ_GONE;
        for (int i = 0; i < MORTALS; i++)
            if (ended(children[i]))
                children[i] = NOBODY, left--;
    }
    return rc;
}

static void check_sum(void)
{
    uint64_t done = world->base, tried = world->base;
    for (int i = 0; i <= MORTALS; i++)
        done += world->accounts[i].done, tried += world->accounts[i].tried;
    CHECK(world->first >= done && world->first <= tried);
}

static void check_survivor(const lock_kind *kind, uint64_t round)
{
    outlive(kind, round);
    bool died_inside = false;
    for (int i = 0; i < MORTALS; i++)
        died_inside |= world->accounts[i].writes;
    int rc = kind->acquire(true, -1);
    CHECK(rc == SHMQ_OK || rc == SHMQ_OWNER_DIED);
    if (died_inside && world->first != world->second)
        CHECK(rc == SHMQ_OWNER_DIED);
    check_sum();
    world->second = world->first;
    kind->release(true);
    CHECK(kind->acquire(true, 0) == SHMQ_OK); /* told once is told */
    kind->release(true);
    CHECK(kind->free());
}

static void check_lost(uint64_t round)
{
    memset(&world->prw, 0, sizeof world->prw);
    world->second = world->first; /* the last round's lock was lost with half-done work */
    pthread_kind.join();
    int rc = outlive(&pthread_kind, round);
    bool died_inside = false;
    for (int i = 0; i < MORTALS; i++)
        died_inside |= world->accounts[i].writes || world->accounts[i].reads;
    if (!died_inside && rc == SHMQ_OK)
        return;
    for (int i = 0; i < 2; i++) {
        shmq_prw_mark(&prw, 0);
        rc = pthread_kind.acquire(true, 20000000);
        if (died_inside)
            CHECK(rc == SHMQ_GONE);
        else if (rc == SHMQ_OK)
            pthread_kind.release(true);
    }
    check_sum();
}

int main(int argc, char **argv)
{
    uint64_t rounds = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000;
    arm_watchdog(120);
    world = share(sizeof *world);
    shared = share(sizeof *shared);
    self = shmq_self_token();
    me = ME;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        memset(&world->rw, 0, sizeof world->rw);
        kinds[k].join();
        for (uint64_t i = 0; i < rounds; i++)
            check_survivor(&kinds[k], i);
    }
    for (uint64_t i = 0; i < rounds; i++)
        check_lost(i);
    CHECK(rounds < 500 || places() >= 25);
    puts("ok");
    return 0;
}
