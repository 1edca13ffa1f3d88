/* aio.c - apop, apush, aread and awrite: the coroutines of shmq/aio.py as methods of the native ends. */
#include "shmq/native/module.h"

static PyObject *coroutine(const char *name, PyObject *end, PyObject *argument)
{
    PyObject *module = PyImport_ImportModule("shmq.aio"); /* at the first call, and asyncio with it */
    if (!module)
        return NULL;
    PyObject *function = PyObject_GetAttrString(module, name), *result = NULL;
    Py_DECREF(module);
    if (function)
        result = PyObject_CallFunctionObjArgs(function, end, argument, NULL); /* a NULL argument ends the list */
    Py_XDECREF(function);
    return result;
}

PyObject *shmq_end_apop(PyObject *end, PyObject *Py_UNUSED(unused))
{
    return coroutine("apop", end, NULL);
}

PyObject *shmq_end_apush(PyObject *end, PyObject *record)
{
    return coroutine("apush", end, record);
}

PyObject *shmq_end_aread(PyObject *end, PyObject *n)
{
    return coroutine("aread", end, n);
}

PyObject *shmq_end_awrite(PyObject *end, PyObject *data)
{
    return coroutine("awrite", end, data);
}
