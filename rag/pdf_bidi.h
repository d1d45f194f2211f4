/* pdf_bidi.h - lines of right-to-left scripts, which pdftotext's boxes give as they are seen: from left to right. */
#pragma once

#include <stddef.h>

/* Puts a line of valid or invalid UTF-8 that holds Hebrew, Arabic or the like into the order in which it is read, in
 * place. Others are left alone. Runs of the other direction and numbers keep their own order; brackets turn around. A
 * simple inverse of Unicode's algorithm (UAX 9): no nesting beyond one level. */
void pdf_bidi_line(char *text, size_t bytes);
