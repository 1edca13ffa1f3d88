/* layout.c - what the compiler made of the shared structs, for tests and debuggers. */
#include "shmq/native/module.h"

#include "shmq/native/channel.h"
#include "shmq/native/event.h"
#include "shmq/native/fifo.h"
#include "shmq/native/mutex.h"
#include "shmq/native/prwlock.h"
#include "shmq/native/queue.h"
#include "shmq/native/ring.h"
#include "shmq/native/segment.h"
#include "shmq/native/stream.h"

typedef struct {
    const char *type, *name;
    size_t type_size, offset, size;
} field;

#define F(type, name)                                                                                                  \
    {                                                                                                                  \
        #type, #name, sizeof(shmq_##type), offsetof(shmq_##type, name), sizeof(((shmq_##type *)0)->name)               \
    }

static const field fields[] = {
    F(segment, magic), F(segment, version), F(segment, owner_uid), F(segment, size), F(segment, owner_token),
    F(segment, pidns), F(segment, kind), F(segment, abi),
    F(cell, parked), F(cell, reserved), F(cell, parks), F(cell, wakes),
    F(ring, magic), F(ring, capacity), F(ring, slot_size), F(ring, slots_at), F(ring, producer), F(ring, consumer), F(ring, flags),
    F(ring, tail), F(ring, head), F(ring, full_hits), F(ring, empty_hits), F(ring, high_water),
    F(ring, consumer_cell), F(ring, producer_cell),
    F(channel, pushed), F(channel, popped), F(channel, ring),
    F(stream, magic), F(stream, capacity), F(stream, writer), F(stream, reader), F(stream, flags), F(stream, full_hits),
    F(stream, empty_hits), F(stream, high_water), F(stream, reader_cell), F(stream, writer_cell), F(stream, fifo),
    F(fifo, tail), F(fifo, event), F(fifo, head), F(fifo, want),
    F(queue, magic), F(queue, lines), F(queue, maxsize), F(queue, put), F(queue, get), F(queue, consumer_cell),
    F(queue, producer_cell),
    F(queue_side, lock), F(queue_side, next_cursor), F(queue_side, next_items), F(queue_side, next_spill),
    F(queue_side, seen), F(queue_side, seen_items),
    F(queue_side, cursor), F(queue_side, items), F(queue_side, spill), F(queue_side, refused),
    F(event, word), F(event, waiters), F(event, sets), F(event, parks), F(event, wakes),
    F(spinlock, owner),
    F(mutex, owner), F(mutex, waiters), F(mutex, wake_seq),
    F(prwlock, state), F(prwlock, died), F(prwlock, lock), F(prwlock, slots), F(prwlock, marks),
    F(rwlock, word), F(rwlock, writer), F(rwlock, waiters), F(rwlock, wake_seq), F(rwlock, slots),
};

PyObject *shmq_layout(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    PyObject *result = PyDict_New();
    for (size_t i = 0; result && i < sizeof fields / sizeof *fields; i++) {
        const field *f = &fields[i];
        PyObject *entry = PyDict_GetItemString(result, f->type); /* borrowed */
        if (!entry) {
            entry = Py_BuildValue("(n{})", (Py_ssize_t)f->type_size);
            if (!entry || PyDict_SetItemString(result, f->type, entry) < 0) {
                Py_XDECREF(entry);
                Py_CLEAR(result);
                break;
            }
            Py_DECREF(entry); /* the dict holds it */
        }
        PyObject *place = Py_BuildValue("(nn)", (Py_ssize_t)f->offset, (Py_ssize_t)f->size);
        if (!place || PyDict_SetItemString(PyTuple_GET_ITEM(entry, 1), f->name, place) < 0)
            Py_CLEAR(result);
        Py_XDECREF(place);
    }
    return result;
}
