/* html_style.c - see html_style.h. */
#include "rag/html_style.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define STYLE_BYTES 1024

/* A style as ";name:value;name:value;": lower case, without spaces, cut where it is very long. */
static void compact(char *to, const char *style) {
    size_t n = 0;
    to[n++] = ';';
    for (; *style && n < STYLE_BYTES - 2; style++)
        if (!isspace((unsigned char)*style)) to[n++] = (char)tolower((unsigned char)*style);
    to[n++] = ';';
    to[n] = 0;
}

/* The value of the last declaration of this name, or NULL; it ends at ';'. */
static const char *value_of(const char *style, const char *name) {
    const char *found = NULL;
    size_t n = strlen(name);
    for (const char *p = style; (p = strstr(p, name)); p++)
        if (p[-1] == ';' && p[n] == ':') found = p + n + 1;
    return found;
}

static bool value_is(const char *value, const char *text) {
    size_t n = strlen(text);
    return value && !strncmp(value, text, n) && (value[n] == ';' || value[n] == '!');
}

static bool is_white(const char *v) {
    return value_is(v, "white") || value_is(v, "#fff") || value_is(v, "#ffffff") || value_is(v, "rgb(255,255,255)");
}

static bool near_zero(const char *v) {
    return v && v[0] != ';' && strtod(v, NULL) <= 1 && (isdigit((unsigned char)v[0]) || v[0] == '.');
}

static bool far_off(const char *v) {
    return v && v[0] == '-' && strtod(v, NULL) <= -900;
}

bool html_style_hides(const struct html_style_state *s, const char *style, const char *bgcolor, const char *color,
                      bool hidden) {
    char text[STYLE_BYTES];
    if (hidden) return true;
    bool own_background = bgcolor != NULL, white_on_white = false, white = false;
    if (color) {
        compact(text, color);
        white = is_white(text + 1);
    }
    if (style) {
        compact(text, style);
        const char *size = value_of(text, "font-size"), *opacity = value_of(text, "opacity"), *back;
        if (value_is(value_of(text, "display"), "none") || value_is(value_of(text, "visibility"), "hidden"))
            return true;
        if (size && near_zero(size) && !strstr(size, "em;")) return true;
        if (size && (value_is(size, "0em") || value_is(size, "0rem"))) return true;
        if (opacity && near_zero(opacity) && strtod(opacity, NULL) < 0.05) return true;
        if (far_off(value_of(text, "text-indent")) || far_off(value_of(text, "left")) || far_off(value_of(text, "top")))
            return true;
        if (value_of(text, "color")) white = is_white(value_of(text, "color"));
        back = value_of(text, "background");
        if (!back) back = value_of(text, "background-color");
        if (back) own_background = !(white_on_white = is_white(back));
    }
    return white && !own_background && (white_on_white || (!s->has_css && !s->backgrounds));
}

static bool sets_background(const char *style, const char *bgcolor) {
    char text[STYLE_BYTES];
    if (bgcolor) return true;
    if (!style) return false;
    compact(text, style);
    return strstr(text, ";background") != NULL;
}

void html_style_enter(struct html_style_state *s, const char *style, const char *bgcolor) {
    s->backgrounds += sets_background(style, bgcolor);
}

void html_style_leave(struct html_style_state *s, const char *style, const char *bgcolor) {
    s->backgrounds -= sets_background(style, bgcolor);
}
