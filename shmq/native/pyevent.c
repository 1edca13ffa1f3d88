/* pyevent.c - the type Event: event.h for Python. Any number of threads may use one object. */
#include "shmq/native/module.h"

#include "shmq/native/event.h"

/* How often a wait looks before it gives the GIL up. */
#define HELD_LOOKS 32

typedef struct {
    PyObject_HEAD
    Py_buffer memory;
    shmq_event *event; /* NULL once closed */
    Py_ssize_t waiting; /* threads of this process inside wait */
    uint32_t generation; /* fork generation that `waiting` belongs to */
} Event;

static bool refuse_closed(const Event *self)
{
    if (!self->event)
        PyErr_SetString(PyExc_ValueError, "the event is closed");
    return !self->event;
}

static PyObject *event_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"memory", "at", NULL};
    PyObject *memory;
    Py_ssize_t at = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|n:Event", names, &memory, &at))
        return NULL;
    Event *self = (Event *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->generation = shmq_fork_generation;
    if (PyObject_GetBuffer(memory, &self->memory, PyBUF_WRITABLE) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    char *place = (char *)self->memory.buf + at;
    if (at < 0 || at > self->memory.len - (Py_ssize_t)sizeof(shmq_event) || (uintptr_t)place % alignof(shmq_event)) {
        PyErr_Format(PyExc_ValueError, "an event needs %zu bytes of memory, aligned to %zu, at offset %zd",
                     sizeof(shmq_event), alignof(shmq_event), at);
        Py_DECREF(self);
        return NULL;
    }
    self->event = (shmq_event *)place;
    return (PyObject *)self;
}

static void event_dealloc(Event *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyBuffer_Release(&self->memory); /* does nothing when there is none */
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *event_close(Event *self, PyObject *Py_UNUSED(unused))
{
    if (self->waiting && self->generation == shmq_fork_generation)
        return PyErr_Format(PyExc_RuntimeError, "%zd thread(s) of this process wait for the event", self->waiting);
    self->event = NULL;
    PyBuffer_Release(&self->memory);
    Py_RETURN_NONE;
}

static PyObject *event_set(Event *self, PyObject *Py_UNUSED(unused))
{
    if (refuse_closed(self))
        return NULL;
    shmq_event_set(self->event);
    Py_RETURN_NONE;
}

static PyObject *event_clear(Event *self, PyObject *Py_UNUSED(unused))
{
    if (refuse_closed(self))
        return NULL;
    shmq_event_clear(self->event);
    Py_RETURN_NONE;
}

static PyObject *event_is_set(Event *self, PyObject *Py_UNUSED(unused))
{
    return refuse_closed(self) ? NULL : PyBool_FromLong(shmq_event_is_set(self->event));
}

/* 1: it happened, 0: timed out, -1: a signal handler raised. */
static int wait_in_slices(shmq_event *event, uint32_t began, int64_t deadline)
{
    for (;;) {
        int64_t left = deadline - shmq_now_ns();
        if (left <= 0)
            return shmq_event_happened(event, began);
        Py_BEGIN_ALLOW_THREADS
        shmq_event_sleep(event, began, left < SHMQ_SLICE_NS ? left : SHMQ_SLICE_NS);
        Py_END_ALLOW_THREADS
        if (shmq_event_happened(event, began))
            return 1;
        if (PyErr_CheckSignals() < 0)
            return -1;
    }
}

static PyObject *event_wait(Event *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    int64_t timeout_ns;
    if (!shmq_timeout_argument("wait", args, nargs, kwnames, 0, &timeout_ns) || refuse_closed(self))
        return NULL;
    uint32_t began = shmq_event_look(self->event);
    for (int i = 0; i < HELD_LOOKS; i++) {
        if (shmq_event_happened(self->event, began))
            Py_RETURN_TRUE;
        shmq_relax();
    }
    int64_t now = shmq_now_ns();
    if (self->generation != shmq_fork_generation) {
        self->waiting = 0; /* the parent's threads are not here */
        self->generation = shmq_fork_generation;
    }
    self->waiting++;
    int rc = wait_in_slices(self->event, began, timeout_ns > INT64_MAX - now ? INT64_MAX : now + timeout_ns);
    self->waiting--;
    return rc < 0 ? NULL : PyBool_FromLong(rc);
}

static PyObject *event_stats(Event *self, PyObject *Py_UNUSED(unused))
{
    if (refuse_closed(self))
        return NULL;
    shmq_event *e = self->event;
    return Py_BuildValue("{sIsKsKsK}", "waiters", atomic_load(&e->waiters), "sets", (unsigned long long)atomic_load(&e->sets),
                         "parks", (unsigned long long)atomic_load(&e->parks), "wakes",
                         (unsigned long long)atomic_load(&e->wakes));
}

static PyObject *event_closed(Event *self, void *Py_UNUSED(unused))
{
    return PyBool_FromLong(self->event == NULL);
}

static PyMethodDef methods[] = {
    {"set", (PyCFunction)event_set, METH_NOARGS, "set()\n\nSet the flag and wake all who wait for it."},
    {"clear", (PyCFunction)event_clear, METH_NOARGS, "clear()\n\nClear the flag; later waits block."},
    {"is_set", (PyCFunction)event_is_set, METH_NOARGS, "is_set() -> bool\n\nTrue while the flag is set."},
    {"wait", (PyCFunction)(void (*)(void))event_wait, METH_FASTCALL | METH_KEYWORDS,
     "wait(timeout=None) -> bool\n\nWait until the flag is set; False when that took longer than timeout seconds."},
    {"stats", (PyCFunction)event_stats, METH_NOARGS,
     "stats() -> dict[str, int]\n\nwaiters (now asleep, dead ones included), sets, parks and wakes since it was made."},
    {"close", (PyCFunction)event_close, METH_NOARGS, "close()\n\nLet go of the memory; a second call does nothing."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getset[] = {
    {"closed", (getter)event_closed, NULL, "True once closed.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Event(memory, at=0)\n\nA flag to wait for, in shared memory; made by shmq.Event."},
    {Py_tp_new, event_new},
    {Py_tp_dealloc, event_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, getset},
    {0, NULL},
};

PyType_Spec shmq_event_spec = {
    .name = "shmq._native.Event",
    .basicsize = sizeof(Event),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
