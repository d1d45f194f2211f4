/* extract.h within this process: what each reader makes of its format, what is hidden, what is refused, and that text
 * stands in the file where its origins say. The sandbox around them: test_sandbox.c. */
#include "tests/unit/documents.h"

static int sniff(const char *data, size_t bytes, const char *name) {
    struct extract_limits limits = extract_default_limits();
    struct extract_input in = {.data = data, .bytes = bytes, .name = name, .limits = &limits};
    return extract_sniff(&in, err, sizeof err);
}

Test(extract, kinds_by_content) {
    static const struct {
        const char *data, *name;
        int format;
    } cases[] = {
        {"%PDF-1.7 x", "a.txt", FORMAT_PDF},
        {"junk\n%PDF-1.4", NULL, FORMAT_PDF},
        {"<!DOCTYPE html><p>x", "a.txt", FORMAT_HTML},
        {" \n<!-- c --><html>x", "a.md", FORMAT_HTML},
        {"<?xml version='1.0'?><html xmlns='x'>x", NULL, FORMAT_HTML},
        {"<h1>x</h1>", NULL, FORMAT_HTML},
        {"<hello> world", NULL, FORMAT_TXT},
        {"From: a\nTo: b\n\nx", NULL, FORMAT_EML},
        {"Received: x\n\ty\nSubject: b\r\n\r\nx", "a.txt", FORMAT_EML},
        {"From: here\nwe go to the sea.\n", NULL, FORMAT_TXT},
        {"Note: a\nHint: b\n\nx", NULL, FORMAT_TXT},
        {"{\"a\": 1}", "a.txt", FORMAT_JSON},
        {" [1, 2]", NULL, FORMAT_JSON},
        {"{\"a\": 1}\n{\"a\": 2}\n", NULL, FORMAT_JSONL},
        {"[a link](http://x.y)\n\n# T\n", NULL, FORMAT_MD},
        {"{broken", "a.json", FORMAT_TXT},
        {"a,b,c\n1,2,3\n4,5,6\n", NULL, FORMAT_CSV},
        {"a,b,c\n1,2,3\n4,5,6\n", "a.txt", FORMAT_TXT},
        {"a,b,c\n1,2,3\n4,5,6\n", "a.md", FORMAT_MD},
        {"one column\n", "a.csv", FORMAT_CSV},
        {"Well, yes.\nAnd so, on, and on.\nThe end.\n", NULL, FORMAT_TXT},
        {"# Title\n\n## More\n", NULL, FORMAT_MD},
        {"plain", NULL, FORMAT_TXT},
        {"\x89PNG\r\n", "a.pdf", FORMAT_UNKNOWN},
        {"{\\rtf1 x}", NULL, FORMAT_UNKNOWN},
        {"PK\3\4 broken", "a.docx", FORMAT_DOCX},
        {"", NULL, FORMAT_UNKNOWN},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int format = sniff(cases[i].data, strlen(cases[i].data), cases[i].name);
        cr_expect_eq(format, cases[i].format, "case %zu: %s", i, extract_format_name(format));
    }
    cr_expect_eq(sniff("a\0b", 3, "a.txt"), FORMAT_UNKNOWN);
    cr_expect_eq(sniff("\xFF\xFE"
                       "a\0",
                       4, NULL),
                 FORMAT_TXT, "UTF-16");
}

Test(extract, text_of_any_encoding) {
    expect_text(FORMAT_TXT, "one\ntwo\n\n\nthree\fpage two", "one\ntwo\n\nthree\n\npage two");
    expect_text(FORMAT_TXT, "\xEF\xBB\xBFmarked", "marked");
    expect_text(FORMAT_TXT, "caf\xE9 \x93quoted\x94 \x80", "café “quoted” €");
    struct document d;
    cr_assert_eq(parse(&d, FORMAT_TXT, "\xFF\xFEh\0\xE9\0\x3D\xD8\x00\xDE", 10, NULL), 0, "%s", err);
    cr_expect_str_eq(d.text, "h\u00E9\U0001F600");
    document_deinit(&d);
}

Test(extract, markdown) {
    expect_text(FORMAT_MD,
                "Title\n=====\n\nSome *text* with `code` and [a link](http://x.y \"t\").\nNext &amp; line\\*\n\n"
                "- one\n- two\n  - inner\n\n  more of two\n\n3. three\n4. four\n\n"
                "| a | b |\n|---|---|\n| 1 | x\\|y |\n\n```c\nint x;\n\n  y\n```\n\n> quoted <b>bold</b> <T>\n",
                "# Title\n\nSome text with code and a link.\nNext & line*\n\n- one\n- two\n  - inner\n\nmore of two\n\n"
                "3. three\n4. four\n\n| a | b |\n| --- | --- |\n| 1 | x\\|y |\n\nint x;\n\n  y\n\nquoted bold <T>");
    expect_text(FORMAT_MD, "---\ntitle: x\n---\n\ntext\n", "title: x\n\ntext");
    expect_text(FORMAT_MD, "a\n\n<div>shown <span hidden>secret</span></div>\n\n<!-- secret -->\n", "a\n\nshown");
}

Test(extract, html_blocks) {
    expect_text(FORMAT_HTML,
                "<title> A  page </title><script>x()</script><h2>Head\nline</h2><p>one<br>two <b>bo</b>ld</p>loose"
                "<ul><li>a<ul><li>b</li></ul></li><li><p>c</p><p>d</p></li></ul><ol start=3><li>e<li>f</ol>"
                "<pre> x\n  y</pre><img alt='A duck'>",
                "## Head line\n\none\ntwo bold\n\nloose\n\n- a\n  - b\n- c\n\nd\n\n3. e\n4. f\n\n x\n  y\n\nA duck");
    expect_text(FORMAT_HTML,
                "<table><caption>Cap</caption><tr><th>a<th>b<th>c</tr><tr><td rowspan=2>1<td colspan=2>2</tr>"
                "<tr><td>3<td><table><tr><td>in<td>ner</table></table>",
                "Cap\n\n| a | b | c |\n| --- | --- | --- |\n| 1 | 2 | 2 |\n| 1 | 3 | in ner |");
    expect_text(FORMAT_HTML, "<table><tr><td><h1>Layout</h1><table><tr><td>x<td>y</table></table>",
                "# Layout\n\n| x | y |\n| --- | --- |");
    struct text t = text_of(FORMAT_HTML, "<title> A  page </title>x");
    cr_expect_str_eq(t.title, "A page");
    text_deinit(&t);
}

Test(extract, html_that_is_hidden) {
    static const char *const hidden[] = {
        "<p hidden>S</p>",
        "<p style='display: none'>S</p>",
        "<p style='color:red;DISPLAY:NONE !important'>S</p>",
        "<span style=\"visibility:hidden\">S</span>",
        "<span style=\"font-size:0px\">S</span>",
        "<span style=\"font-size: 1px\">S</span>",
        "<div style='opacity:0'>S</div>",
        "<div style='position:absolute; left:-9999px'>S</div>",
        "<p style='text-indent:-5000px'>S</p>",
        "<p style='color:#fff'>S</p>",
        "<font color=white>S</font>",
        "<p style='color:WHITE;background:#FFFFFF'>S</p>",
        "<template>S</template>",
        "<noscript>S</noscript>",
        "<style>S</style>",
        "<!-- S -->",
        "<div hidden><p>S</div>",
    };
    static const char *const shown[] = {
        "<p style='display:block'>S</p>",
        "<p style='font-size:10px'>S</p>",
        "<p style='font-size:0.9em'>S</p>",
        "<div style='background:black'><p style='color:white'>S</p></div>",
        "<div bgcolor=navy><font color=white>S</font></div>",
        "<p style='opacity:0.9'>S</p>",
        "<style>p{background:#000}</style><p style='color:#fff'>S</p>",
        "<p style='background-color:red;color:#fff'>S</p>",
        "<p style='left:-5px'>S</p>",
    };
    for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++) {
        char page[256];
        snprintf(page, sizeof page, "<p>a</p>%s<p>z</p>", hidden[i]);
        expect_text(FORMAT_HTML, page, "a\n\nz");
    }
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++) {
        char page[256];
        snprintf(page, sizeof page, "<p>a</p>%s<p>z</p>", shown[i]);
        expect_text(FORMAT_HTML, page, "a\n\nS\n\nz");
    }
}

Test(extract, tables_of_csv) {
    expect_text(FORMAT_CSV, "a,b\n1,\"x, \"\"y\"\"\nz\"\n\n2,\n",
                "| a | b |\n| --- | --- |\n| 1 | x, \"y\" z |\n| 2 |  |");
    expect_text(FORMAT_CSV, "a;b\r\n1,5;2\r\n", "| a | b |\n| --- | --- |\n| 1,5 | 2 |");
    expect_text(FORMAT_CSV, "a\tb\n1\t\"open", "| a | b |\n| --- | --- |\n| 1 | open |");
}

Test(extract, json_values) {
    expect_text(
        FORMAT_JSON,
        "{\"a\": 1.5, \"b\": {\"c\": [true, \"x\"]}, \"d\": [{\"k\": 1, \"v\": null}, {\"k\": 2, \"v\": \"y\"}]}",
        "a: 1.5\n\nb.c.0: true\nb.c.1: x\n\nd:\n\n| k | v |\n| --- | --- |\n| 1 | null |\n| 2 | y |");
    expect_text(FORMAT_JSONL, "{\"a\": 1}\n\n{\"a\": {\"b\": 2}}", "a: 1\n\na.b: 2");
    expect_text(FORMAT_JSON, "\"just a string\"", "just a string");
}

Test(extract, mail) {
    expect_text(
        FORMAT_EML,
        "From: =?utf-8?B?SsO8cmdlbg==?= <j@x.y>\r\nTo: b@x.y\r\nSubject: =?iso-8859-1?Q?Gr=FC=DFe?=\r\n "
        "=?utf-8?q?_an_alle?=\r\n"
        "MIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n boundary=\"outer\"\r\n\r\npreamble\r\n"
        "--outer\r\nContent-Type: multipart/alternative; boundary=inner\r\n\r\n"
        "--inner\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
        "Sch=F6n=\r\ne Gr=FC=DFe\r\n--inner\r\nContent-Type: text/html\r\n\r\n<p>html</p>\r\n--inner--\r\n"
        "--outer\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        "PHA+YmFzZTY0PC9wPg==\r\n--outer\r\nContent-Type: application/pdf; name=\"a.pdf\"\r\n"
        "Content-Disposition: attachment; filename=\"b.pdf\"\r\n\r\nJVBERi0=\r\n"
        "--outer\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\nforwarded\r\n--outer--\r\nepilogue",
        "# Grüße an alle\n\nFrom: Jürgen <j@x.y>\nTo: b@x.y\n\nSchöne Grüße\n\nbase64\n\n"
        "Attachment: b.pdf (application/pdf, not read)\n\n# inner\n\nforwarded");
    expect_text(FORMAT_EML, "From: a\nTo: b\nContent-Type: multipart/mixed\n\nno boundary",
                "From: a\nTo: b\n\nno boundary");
}

#define TEXT(text)          "<w:r><w:t>" text "</w:t></w:r>"
#define P(properties, text) "<w:p><w:pPr>" properties "</w:pPr>" TEXT(text) "</w:p>"
#define ROW(cells)          "<w:tr>" cells "</w:tr>"
#define CELL(inner)         "<w:tc>" inner "</w:tc>"
#define MERGE(attribute)    "<w:tcPr><w:vMerge " attribute "/></w:tcPr>"
#define ITEM(level)         "<w:numPr><w:ilvl w:val=\"" level "\"/><w:numId w:val=\"7\"/></w:numPr>"
#define COLOR(rest)         "<w:rPr><w:color w:val=\"FFFFFF\"/>" rest "</w:rPr>"

static void expect_docx(const char *body, const char *expected) {
    static const char styles[] =
        "<w:styles xmlns:w=\"http://schemas.openxmlformats.org/wordprocessingml/2006/main\">"
        "<w:style w:styleId=\"H2\"><w:name w:val=\"heading 2\"/></w:style>"
        "<w:style w:styleId=\"Mine\"><w:name w:val=\"My\"/><w:basedOn w:val=\"H2\"/></w:style>"
        "<w:style w:styleId=\"Ghost\"><w:name w:val=\"Ghost\"/><w:rPr><w:vanish/></w:rPr></w:style>"
        "<w:style w:styleId=\"C\"><w:name w:val=\"Code\"/></w:style></w:styles>";
    static const char numbering[] =
        "<w:numbering xmlns:w=\"http://schemas.openxmlformats.org/wordprocessingml/2006/main\">"
        "<w:abstractNum w:abstractNumId=\"0\"><w:lvl w:ilvl=\"0\"><w:numFmt w:val=\"decimal\"/><w:lvlText "
        "w:val=\"%1.\"/>"
        "</w:lvl><w:lvl w:ilvl=\"1\"><w:numFmt w:val=\"bullet\"/></w:lvl></w:abstractNum>"
        "<w:num w:numId=\"7\"><w:abstractNumId w:val=\"0\"/></w:num></w:numbering>";
    struct archive a = {0};
    struct document d;
    struct text t = {0};
    char *document = malloc(strlen(body) + 1024);
    sprintf(document, "%s%s%s", WORD_BEGIN, body, WORD_END);
    archive_add(&a, "[Content_Types].xml", "<Types/>", 8);
    archive_add(&a, "word/document.xml", document, strlen(document));
    archive_add(&a, "word/styles.xml", styles, strlen(styles));
    archive_add(&a, "word/numbering.xml", numbering, strlen(numbering));
    archive_end(&a);
    cr_expect_eq(sniff((char *)a.data, a.n, "a.txt"), FORMAT_DOCX);
    cr_assert_eq(parse(&d, FORMAT_DOCX, (char *)a.data, a.n, NULL), 0, "%s", err);
    normalise(&t, &d);
    cr_expect_str_eq(t.text, expected, "expected:\n%s\nfound:\n%s", expected, t.text);
    text_deinit(&t);
    document_deinit(&d);
    free(a.data);
    free(a.directory);
    free(document);
}

Test(extract, word_paragraphs) {
    expect_docx(P("<w:pStyle w:val=\"Mine\"/>", "Head") P("<w:outlineLvl w:val=\"2\"/>", "Deeper") P("", "text"),
                "## Head\n\n### Deeper\n\ntext");
    expect_docx(P(ITEM("0"), "one") P(ITEM("1"), "in") P(ITEM("0"), "two"), "1. one\n  - in\n2. two");
    expect_docx(P("<w:pStyle w:val=\"H2\"/>" ITEM("0"), "numbered") P("", ""), "## 1. numbered");
    expect_docx(P("<w:pStyle w:val=\"C\"/>", "int x;") P("<w:pStyle w:val=\"C\"/>", "int y;") P("", "end"),
                "int x;\nint y;\n\nend");
    expect_docx("<w:p>" TEXT("outer") "<w:txbxContent>" P("", "box") "</w:txbxContent>" TEXT(" text") "</w:p>",
                "box\n\nouter text");
}

Test(extract, word_tables) {
    static const char inner[] = "<w:tbl>" ROW(CELL(P("", "in"))) "</w:tbl>";
    char table[1024];
    snprintf(table, sizeof table, "<w:tbl>%s<w:tr><w:tc>%s%s%s</w:tbl>",
             ROW(CELL(P("", "a")) CELL(MERGE("w:val=\"restart\"") P("", "b"))), inner, P("", "c") "</w:tc>",
             CELL(MERGE("") P("", "")) "</w:tr>");
    expect_docx(table, "| a | b |\n| --- | --- |\n| in c | b |");
}

Test(extract, word_that_is_hidden) {
    expect_docx("<w:p><w:r><w:t>a</w:t><w:tab/><w:t>b</w:t><w:br/><w:t>c</w:t></w:r><w:del>" TEXT(
                    "D") "</w:del>"
                         "<w:ins>" TEXT("e") "</w:ins><w:moveFrom>" TEXT(
                             "M") "</"
                                  "w:moveFrom><mc:AlternateContent><mc:"
                                  "Choice>" TEXT("f") "</"
                                                      "mc:Choice><mc:"
                                                      "Fallback>" TEXT("F") "</mc:Fallback></"
                                                                            "mc:"
                                                                            "AlternateContent></"
                                                                            "w:p>",
                "a b\ncef");
    expect_docx("<w:p><w:r><w:rPr><w:vanish/></w:rPr><w:t>S</w:t></w:r>" TEXT("a") "<w:r>" COLOR(
                    "") "<w:t>S</w:t></w:r><w:r>" COLOR("<w:shd w:fill=\"000000\"/>") "<w:t>b</w:t></w:r>"
                                                                                      "<w:r><w:rPr><w:rStyle "
                                                                                      "w:val=\"Ghost\"/></"
                                                                                      "w:rPr><w:t>S</w:t></w:r></w:p>",
                "ab");
}

Test(extract, pdf_layout) {
    static const struct {
        int page, block;
        double x, y, x_end, y_end;
        const char *text;
    } words[] = {
        {1, 1, 10, 10, 90, 30, "Large"},
        {1, 2, 10, 40, 30, 50, "Small"},
        {1, 2, 33, 40, 40, 50, "head"},
        {1, 3, 10, 55, 60, 65, "A &lt;line&gt; th\x01"}, /* no gap: one word */
        {1, 3, 60, 55, 95, 65, "at is well-"},
        {1, 3, 10, 66, 90, 76, "known and divi-"},
        {1, 3, 10, 77, 90, 87, "ded, in well-known words."},
        {2, 4, 10, 10, 12, 20, "\u2022"}, /* beside the next */
        {2, 5, 20, 10, 90, 20, "item one goes on"},
        {2, 5, 20, 21, 90, 31, "here."},
        {2, 6, 10, 50, 90, 60, "\u05D1\u05D0 12 \u05D3\u05D2"}, /* as it is seen */
    };
    enum { N = sizeof words / sizeof *words };
    char page[8192];
    size_t n = (size_t)sprintf(page, "<title>A &amp; B</title>");
    for (int i = 0; i < N; i++) {
        bool new_page = !i || words[i].page != words[i - 1].page,
             new_block = !i || words[i].block != words[i - 1].block;
        bool new_line = new_block || words[i].y != words[i - 1].y;
        bool last = i + 1 == N || words[i + 1].y != words[i].y || words[i + 1].block != words[i].block;
        if (new_page) n += (size_t)sprintf(page + n, "<page width=\"1\">");
        if (new_block) n += (size_t)sprintf(page + n, "<block>");
        if (new_line)
            n += (size_t)sprintf(page + n, "<line xMin=\"%g\" yMin=\"%g\" xMax=\"%g\">", words[i].x, words[i].y,
                                 words[last ? i : i + 1].x_end);
        n += (size_t)sprintf(page + n, "<word xMin=\"%g\" yMin=\"%g\" xMax=\"%g\" yMax=\"%g\">%s</word>", words[i].x,
                             words[i].y, words[i].x_end, words[i].y_end, words[i].text);
        if (last) n += (size_t)sprintf(page + n, "</line>");
    }
    expect_text(FORMAT_PDF, page,
                "# Large\n\n## Small head\n\nA <line> that is well-known and divided, in well-known words.\n\n"
                "- item one goes on here.\n\n\u05D2\u05D3 12 \u05D0\u05D1");
    struct text t = text_of(FORMAT_PDF, page);
    cr_expect_str_eq(t.title, "A & B");
    cr_expect_eq(t.n_pages, 2u);
    cr_expect_eq(t.blocks[t.n_blocks - 1].page, 2u);
    text_deinit(&t);
}

/* Text that has an origin stands there, but for white space. */
static void check_origins(int format, const char *data, size_t least) {
    struct document d;
    size_t mapped = 0;
    cr_assert_eq(parse(&d, format, data, strlen(data), NULL), 0, "%s", err);
    for (size_t i = 0; i < d.n_origins; i++) {
        const struct doc_origin *o = &d.origins[i];
        cr_assert_leq(o->source + o->bytes, strlen(data));
        for (uint32_t k = 0; k < o->bytes; k++) {
            unsigned char a = (unsigned char)d.text[o->text + k], b = (unsigned char)data[o->source + k];
            cr_assert(a == b || (a <= ' ' && b <= ' '), "%s: '%c' is not '%c' at %llu", extract_format_name(format), a,
                      b, (unsigned long long)o->source + k);
        }
        mapped += o->bytes;
    }
    cr_expect_geq(mapped, least, "%s: %zu of %zu bytes have an origin", extract_format_name(format), mapped,
                  d.text_bytes);
    document_deinit(&d);
}

Test(extract, origins_are_true) {
    check_origins(FORMAT_TXT, "\xEF\xBB\xBFone\ntwo\n\nthr\xC3\xA9\x65", 13);
    check_origins(FORMAT_MD,
                  "# A *b* c\n\ntext \\* &lt; and < `x  y`\nsoft &amp; hard\n\n> q\n> r\n\n- a\n\n      "
                  "code\n\n|a|b|\n|-|-|\n|c|d|\n",
                  47);
    check_origins(FORMAT_HTML, "<p>one &amp; two\nthree &eacute; four&nbsp;five & six</p><table><tr><td>a<td>b</table>",
                  31);
    check_origins(FORMAT_CSV, "a,b\n\"x \"\"y\"\" z\",2\n", 9);
    check_origins(FORMAT_EML, "From: a\nTo: b\n\nplain text here\n", 15);
}

Test(extract, limits) {
    struct extract_limits limits = extract_default_limits();
    struct document d;
    struct archive a = {0};
    char *big = malloc(3 << 20);
    memset(big, ' ', 3 << 20);
    memcpy(big, WORD_BEGIN, strlen(WORD_BEGIN));
    memcpy(big + (3 << 20) - strlen(WORD_END), WORD_END, strlen(WORD_END));
    archive_add(&a, "word/document.xml", big, 3 << 20);
    archive_add(&a, "word/styles.xml", big, 3 << 20);
    archive_end(&a);
    limits.ratio = 2000;
    cr_expect_eq(parse(&d, FORMAT_DOCX, (char *)a.data, a.n, &limits), 0, "%s", err);
    document_deinit(&d);
    limits.entry_bytes = 2 << 20;
    cr_expect_eq(parse(&d, FORMAT_DOCX, (char *)a.data, a.n, &limits), STATUS_TOO_LARGE);
    cr_expect_str_eq(err, "\"word/styles.xml\" inflates to more than 2 MB");
    document_deinit(&d);
    limits.entry_bytes = 4 << 20;
    limits.total_bytes = 5 << 20;
    cr_expect_eq(parse(&d, FORMAT_DOCX, (char *)a.data, a.n, &limits), STATUS_TOO_LARGE);
    cr_expect_str_eq(err, "the ZIP archive inflates to more than 5 MB");
    document_deinit(&d);
    limits.ratio = 200;
    cr_expect_eq(parse(&d, FORMAT_DOCX, (char *)a.data, a.n, &limits), STATUS_TOO_LARGE);
    cr_expect_str_eq(err, "\"word/styles.xml\" inflates to more than 200 times its size");
    document_deinit(&d);
    limits = extract_default_limits();
    limits.text_bytes = 1 << 20;
    cr_expect_eq(parse(&d, FORMAT_TXT, memset(big, 'x', 2 << 20), 2 << 20, &limits), STATUS_TOO_LARGE);
    cr_expect_str_eq(err, "it has more than 1 MB of text");
    document_deinit(&d);
    for (int i = 0; i < 1000; i++) big[2 * i] = 'x', big[2 * i + 1] = '\f';
    limits.pages = 500;
    cr_expect_eq(parse(&d, FORMAT_TXT, big, 2000, &limits), STATUS_TOO_LARGE);
    cr_expect_str_eq(err, "it has more than 500 pages");
    document_deinit(&d);
    free(big);
    free(a.data);
    free(a.directory);
}

/* An archive that is cut or changed anywhere: text or a reason, never a fault. */
Test(extract, archives_that_are_broken) {
    struct archive a = {0};
    static const char body[] = WORD_BEGIN P("", "Hello") WORD_END;
    archive_add(&a, "[Content_Types].xml", "<Types/>", 8);
    archive_add(&a, "word/document.xml", body, sizeof body - 1);
    archive_end(&a);
    int refused = 0;
    for (size_t n = 0; n < a.n; n++) {
        struct document d;
        char *copy = malloc(a.n); /* of its own size, so that a sanitizer sees what is read behind it */
        cr_assert_not_null(copy);
        memcpy(copy, a.data, a.n);
        refused += parse(&d, FORMAT_DOCX, copy + (a.n - n), n, NULL) != 0;
        document_deinit(&d);
        copy[n] ^= (char)(1 + n % 255);
        refused += parse(&d, FORMAT_DOCX, copy, a.n, NULL) != 0;
        document_deinit(&d);
        free(copy);
    }
    cr_expect_gt(refused, (int)a.n, "only %d were refused", refused);
    free(a.data);
    free(a.directory);
}
