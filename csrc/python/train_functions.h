/* train_functions.h - functions of dynadnn._core that surround a training step. */
#ifndef DN_PYTHON_TRAIN_FUNCTIONS_H
#define DN_PYTHON_TRAIN_FUNCTIONS_H

#include "python/common.h"

extern PyMethodDef dn_train_functions[];

#endif
