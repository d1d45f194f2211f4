/* html_style.h - what of an HTML page is hidden, as far as its elements say so themselves: the attribute `hidden`, and
 * inline styles. Rules of style sheets are not applied. */
#pragma once

#include <stdbool.h>

struct html_style_state { /* zero-initialise */
    bool has_css;         /* the page has style sheets, so what is behind white text is not known */
    int backgrounds;      /* elements around this place that set a background of their own, other than white */
};

/* True if an element with these attributes (NULL: absent) is hidden: display: none, visibility: hidden, no size, no
 * opacity, far off the page; white text where nothing has set another background. */
bool html_style_hides(const struct html_style_state *s, const char *style, const char *bgcolor, const char *color,
                      bool hidden);
/* Around the children of an element that is shown. */
void html_style_enter(struct html_style_state *s, const char *style, const char *bgcolor);
void html_style_leave(struct html_style_state *s, const char *style, const char *bgcolor);
