/* model_name.h - what is a Hugging Face repository name; shared by model_find and model_pull only. */
#pragma once

#include <stdbool.h>

/* "name" or "org/name" of the characters that the Hub allows: safe in a path and in a URL. */
bool model__name_is_valid(const char *name);
