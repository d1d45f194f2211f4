/* logging.h - see criterion.h beside it. */
#pragma once
#pragma GCC system_header
#include <criterion/criterion.h>
