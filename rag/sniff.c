/* sniff.c - what kind of file this is, by its bytes. Names lie, and uploads often have none. */
#include "rag/charset.h"
#include "rag/extract.h"
#include "rag/zip.h"

#include "kernels/status.h"
#include "weights/json.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

const char *extract_format_name(int format) {
    static const char *const names[FORMATS] = {"unknown", "txt",   "md",  "html", "csv",
                                               "json",    "jsonl", "eml", "docx", "pdf"};
    return format >= 0 && format < FORMATS ? names[format] : "unknown";
}

struct extract_limits extract_default_limits(void) {
    return (struct extract_limits){
        .file_bytes = (size_t)512 << 20,
        .entry_bytes = (size_t)100 << 20,
        .total_bytes = (size_t)250 << 20,
        .text_bytes = (size_t)10 << 20,
        .memory_bytes = (size_t)2 << 30,
        .entries = 10000,
        .ratio = 200,
        .pages = 2000,
        .depth = 1000,
        .seconds = 30,
    };
}

/* What we know and do not read, by the bytes at its start. */
static const struct {
    const char *magic;
    int bytes;
    const char *what;
} others[] = {
    {"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1", 8,
     "an encrypted or old Microsoft Office file (OLE): save it unprotected as docx"},
    {"{\\rtf", 5, "RTF: save it as docx"},
    {"\x89PNG", 4, "an image (PNG)"},
    {"\xFF\xD8\xFF", 3, "an image (JPEG)"},
    {"GIF8", 4, "an image (GIF)"},
    {"II*\0", 4, "an image (TIFF)"},
    {"MM\0*", 4, "an image (TIFF)"},
    {"\x1F\x8B", 2, "compressed (gzip): unpack it first"},
    {"BZh", 3, "compressed (bzip2): unpack it first"},
    {"\xFD"
     "7zXZ",
     5, "compressed (xz): unpack it first"},
    {"7z\xBC\xAF", 4, "an archive (7z): unpack it first"},
    {"Rar!", 4, "an archive (RAR): unpack it first"},
    {"\x7F"
     "ELF",
     4, "a program (ELF)"},
    {"SQLite format 3", 15, "a database (SQLite)"},
};

static bool has_extension(const char *name, const char *const *extensions) {
    const char *dot = name ? strrchr(name, '.') : NULL;
    for (; dot && *extensions; extensions++)
        if (!strcasecmp(dot + 1, *extensions)) return true;
    return false;
}

/* Past white space, a byte order mark and comments. */
static size_t first_tag(const char *p, size_t n) {
    size_t at = n >= 3 && !memcmp(p, "\xEF\xBB\xBF", 3) ? 3 : 0;
    for (;;) {
        while (at < n && isspace((unsigned char)p[at])) at++;
        if (n - at < 7 || memcmp(p + at, "<!--", 4)) return at;
        const char *end = memmem(p + at + 4, n - at - 4, "-->", 3);
        if (!end) return at;
        at = (size_t)(end - p) + 3;
    }
}

static bool begins_with(const char *p, size_t n, const char *word) {
    size_t bytes = strlen(word);
    return n > bytes && !strncasecmp(p, word, bytes) && !isalnum((unsigned char)p[bytes]);
}

static bool is_html(const char *p, size_t n) {
    static const char *const tags[] = {"<!doctype html", "<html", "<head", "<body", "<title", "<meta", "<div",
                                       "<table",         "<h1",   "<h2",   "<p",    "<ul",    "<ol"};
    size_t at = first_tag(p, n);
    if (begins_with(p + at, n - at, "<?xml")) {
        const char *end = memmem(p + at, n - at, "?>", 2);
        if (!end) return false;
        at = (size_t)(end - p) + 2;
        at += first_tag(p + at, n - at);
    }
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++)
        if (begins_with(p + at, n - at, tags[i])) return true;
    return false;
}

/* A mail begins with header lines, two of them well-known ones, up to an empty line. */
static bool is_eml(const char *p, size_t n) {
    static const char *const known[] = {
        "from:",         "to:",           "subject:",     "date:",     "received:",     "message-id:",
        "mime-version:", "content-type:", "return-path:", "reply-to:", "delivered-to:", "cc:"};
    int found = 0;
    if (n > 1 << 16) n = 1 << 16;
    for (size_t at = 0, line = 0; at < n; line++) {
        const char *newline = memchr(p + at, '\n', n - at);
        size_t end = newline ? (size_t)(newline - p) : n, name = at;
        if (end == at || (end == at + 1 && p[at] == '\r')) return found >= 2;
        bool folded = line && (p[at] == ' ' || p[at] == '\t'), envelope = !line && begins_with(p, n, "From");
        while (name < end && (isalnum((unsigned char)p[name]) || p[name] == '-' || p[name] == '_')) name++;
        if (!folded && !(envelope && p[name] == ' ') && (name == at || name == end || p[name] != ':')) return false;
        for (size_t i = 0; i < sizeof known / sizeof *known && !folded; i++)
            found += strlen(known[i]) <= end - at && !strncasecmp(p + at, known[i], strlen(known[i]));
        at = end + 1;
    }
    return found >= 2; /* headers alone, or longer ones than this looks at */
}

/* A broken one is text; one beyond the bounds is refused as JSON, or it would be read as text. */
static int json_kind_of(const struct extract_input *in) {
    char err[ERR_BYTES];
    cJSON *root;
    size_t at = in->bytes >= 3 && !memcmp(in->data, "\xEF\xBB\xBF", 3) ? 3 : 0, begin = at;
    while (at < in->bytes && isspace((unsigned char)in->data[at])) at++;
    if (at == in->bytes || (in->data[at] != '{' && in->data[at] != '[')) return 0;
    struct json_limits limits = {.max_bytes = in->limits->total_bytes, .max_depth = in->limits->depth};
    int status = json_parse(&root, in->data + begin, in->bytes - begin, limits, err, sizeof err);
    if (!status) cJSON_Delete(root);
    if (!status || status == STATUS_TOO_LARGE) return FORMAT_JSON;
    const char *newline = memchr(in->data + at, '\n', in->bytes - at);
    if (!newline) return 0;
    status = json_parse(&root, in->data + at, (size_t)(newline - in->data) - at, limits, err, sizeof err);
    if (!status) cJSON_Delete(root);
    return !status || status == STATUS_TOO_LARGE ? FORMAT_JSONL : 0;
}

/* Signs that nobody writes by chance: headings, fences, tables, links. */
static bool looks_like_md(const char *p, size_t n) {
    int signs = 0;
    if (n > 1 << 16) n = 1 << 16;
    for (size_t at = 0; at < n;) {
        const char *line = p + at, *newline = memchr(line, '\n', n - at);
        size_t bytes = newline ? (size_t)(newline - line) : n - at, hashes = 0;
        while (hashes < bytes && line[hashes] == '#') hashes++;
        if (hashes >= 1 && hashes <= 6 && hashes + 1 < bytes && line[hashes] == ' ') signs++;
        if (bytes >= 3 && !memcmp(line, "```", 3)) signs++;
        if (bytes >= 5 && (!memcmp(line, "| --", 4) || !memcmp(line, "|---", 4) || !memcmp(line, "|:--", 4)))
            signs += 2;
        if (memmem(line, bytes, "](http", 6)) signs++;
        at += bytes + 1;
    }
    return signs >= 2;
}

static bool is_text(const char *p, size_t n) {
    if (n >= 2 && (!memcmp(p, "\xFF\xFE", 2) || !memcmp(p, "\xFE\xFF", 2))) return true;
    size_t control = 0;
    if (n > 1 << 20) n = 1 << 20;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        if (!c) return false;
        control += (c < ' ' && !strchr("\t\n\r\f\b\x1b", c)) || c == 127;
    }
    return control * 100 <= n;
}

/* "%PDF-" may come late, and readers take files that lost it: then a comment of high bytes and an object are left. */
bool extract__is_pdf(const char *start, size_t bytes) {
    if (memmem(start, bytes < 1024 ? bytes : 1024, "%PDF-", 5)) return true;
    return bytes >= 64 && start[0] == '%' && (unsigned char)start[1] >= 0x80 && memmem(start, 64, " 0 obj", 6);
}

int extract_sniff(const struct extract_input *in, char *err, size_t err_bytes) {
    static const char *const md[] = {"md", "markdown", "mdown", NULL}, *const csv[] = {"csv", "tsv", NULL},
                             *const txt[] = {"txt", "text", "log", NULL};
    const char *p = in->data;
    size_t n = in->bytes;
    if (!n) {
        fail(err, err_bytes, 0, "it is empty");
        return FORMAT_UNKNOWN;
    }
    if (extract__is_pdf(p, n)) return FORMAT_PDF;
    if (n >= 4 && !memcmp(p, "PK", 2) &&
        (!memcmp(p + 2, "\3\4", 2) || !memcmp(p + 2, "\5\6", 2) || !memcmp(p + 2, "\7\b", 2)))
        return zip_sniff(in, err, err_bytes);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (n >= (size_t)others[i].bytes && !memcmp(p, others[i].magic, (size_t)others[i].bytes)) {
            fail(err, err_bytes, 0, "it is %s", others[i].what);
            return FORMAT_UNKNOWN;
        }
    if (!is_text(p, n)) {
        fail(err, err_bytes, 0, "it is binary, of no kind that is read: txt, md, html, csv, json, eml, docx, pdf");
        return FORMAT_UNKNOWN;
    }
    if (is_html(p, n)) return FORMAT_HTML;
    if (is_eml(p, n)) return FORMAT_EML;
    int json = json_kind_of(in);
    if (json) return json;
    if (has_extension(in->name, md)) return FORMAT_MD;
    if (has_extension(in->name, csv)) return FORMAT_CSV;
    if (has_extension(in->name, txt)) return FORMAT_TXT;
    if (looks_like_md(p, n)) return FORMAT_MD;
    if (extract__csv_delimiter(p, n, false)) return FORMAT_CSV;
    return FORMAT_TXT;
}

int extract_parse(struct document *d, int format, const struct extract_input *in, char *err, size_t err_bytes) {
    static void (*const readers[FORMATS])(struct document *, const struct extract_input *) = {
        [FORMAT_TXT] = extract__txt, [FORMAT_MD] = extract__md,     [FORMAT_HTML] = extract__html,
        [FORMAT_CSV] = extract__csv, [FORMAT_JSON] = extract__json, [FORMAT_JSONL] = extract__jsonl,
        [FORMAT_EML] = extract__eml, [FORMAT_DOCX] = extract__docx, [FORMAT_PDF] = extract__pdf,
    };
    CHECK(format > FORMAT_UNKNOWN && format < FORMATS);
    readers[format](d, in);
    return doc_finish(d, err, err_bytes);
}
