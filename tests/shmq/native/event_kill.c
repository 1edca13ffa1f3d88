/* kill -9 of a process that sets events and waits for them, at every step (kill.h).
 *
 * Two processes answer each other, each with one event and one number. Checked after each death: nothing hangs, a set that
 * was made is seen with what was written before it, none is seen that was not made, and a third process that sleeps on
 * the event the dead one waited for is woken by the next set. usage: event_kill ROUNDS */
#include "kill.h"

#include "shmq/native/event.h"

typedef struct {
    shmq_event ask, answer;
    uint64_t number; /* of the question; not atomic: the events order it */
} conversation;

static conversation *talk;

/* Wait until the event is set; false when it is not and the peer is dead (0: it never is). */
static bool await(shmq_event *event, pid_t *peer)
{
    for (;;) {
        bool alone = *peer < 0;
        uint32_t began = shmq_event_look(event);
        if (shmq_event_is_set(event))
            return true;
        if (alone)
            return false;
        shmq_event_sleep(event, began, 2000000);
        if (ended(*peer))
            *peer = NOBODY;
    }
}

/* The mortal end: asks. */
static uint64_t ask(uint64_t number, pid_t peer, uint64_t enough)
{
    (void)enough;
    for (;; number++) {
        shared->tried = number + 1;
        talk->number = number;
        shmq_event_set(&talk->ask);
        shared->done = number + 1;
        CHECK(await(&talk->answer, &peer));
        shmq_event_clear(&talk->answer);
        SHMQ_STEP();
    }
}

/* The other end: answers until its peer is dead. Returns the number of the next question. */
static uint64_t answer(uint64_t number, pid_t peer)
{
    while (await(&talk->ask, &peer)) {
        CHECK(talk->number == number);
        number++;
        shmq_event_clear(&talk->ask);
        shmq_event_set(&talk->answer);
    }
    return number;
}

/* Somebody sleeps without a time limit, and is woken. */
static void wake_a_third(shmq_event *event)
{
    uint64_t parks = atomic_load(&event->parks);
    pid_t child = fork();
    int status;
    CHECK(child >= 0);
    if (child == 0) {
        uint32_t began = shmq_event_look(event);
        while (!shmq_event_happened(event, began))
            shmq_event_sleep(event, began, INT64_MAX);
        _exit(0);
    }
    while (atomic_load(&event->parks) == parks)
        sched_yield();
    shmq_event_set(event);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    shmq_event_clear(event);
}

int main(int argc, char **argv)
{
    uint64_t rounds = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000, number = 0;
    arm_watchdog(120);
    talk = share(sizeof *talk);
    shared = share(sizeof *shared);
    for (uint64_t i = 0; i < rounds; i++) {
        shmq_event_clear(&talk->answer); /* the successor of the one that asked */
        pid_t child = mortal(ask, number, (int64_t)(i % MAX_STEPS));
        uint64_t next = answer(number, child);
        CHECK(next >= shared->done && next <= shared->tried); /* each question once */
        number = next;
        shmq_event_clear(&talk->answer);
        wake_a_third(&talk->answer);
    }
    CHECK(atomic_load(&talk->answer.waiters) <= rounds); /* at most one per death, as event.h says */
    CHECK(rounds < 1000 || places() >= 5); /* each SHMQ_STEP of event.h and this file was somebody's last */
    puts("ok");
    return 0;
}
