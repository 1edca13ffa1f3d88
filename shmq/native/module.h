/* module.h - what the files of the extension module shmq._native share. */
#ifndef SHMQ_MODULE_H
#define SHMQ_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

PyObject *shmq_layout(PyObject *module, PyObject *unused);

#endif
