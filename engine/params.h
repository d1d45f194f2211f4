/* params.h - what a request may ask for: bounds, each with its sentence. Private to engine/. */
#pragma once

#include "engine/engine.h"

/* Checks every field of a request against the model and the engine's options. 0, STATUS_INVALID or STATUS_TOO_LARGE
 * with a sentence that names the field, its bound and the value found. */
int request_params_check(const struct request_params *params, const struct engine_info *info, char *err,
                         size_t err_bytes);
