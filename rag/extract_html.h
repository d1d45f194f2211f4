/* extract_html.h - HTML within other formats: blocks of Markdown, parts of mails. */
#pragma once

#include "rag/extract.h"

/* Appends the blocks of a piece of HTML, UTF-8, without origins. */
void extract__html_fragment(struct document *d, const char *html, size_t bytes, const struct extract_limits *limits);
