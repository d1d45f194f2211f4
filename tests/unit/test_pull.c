/* weights.h, download: against a small HTTP server in a child process that also misbehaves on request. */
#include "kernels/status.h"
#include "weights/weights.h"
#include "tests/unit/temporary_folder.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define WEIGHTS_BYTES 300000
#define CONFIG        "{\"a\": 1}\n"

/* ---- the server ------------------------------------------------------------------------------------------------- */

/* What it shall do; written before it starts. */
static struct {
    char list[4096];      /* its answer to the listing */
    int list_status;      /* 0: 200 */
    int file_status;      /* for every file; 0: 200 */
    int n_unavailable;    /* so many times 503 for a file first */
    size_t cut_after;     /* bytes of a body after which it closes the connection; 0: never */
    int n_cuts;           /* so many times */
    bool ignore_range;    /* answers 200 with everything */
    bool refuse_range;    /* answers 416 */
    size_t range_shift;   /* begins so many bytes too far */
    bool no_length;       /* no Content-Length: the end of the connection is the end of the body */
    const char *location; /* where weights are redirected to; NULL: the same server by another name */
} behaviour;

/* What it saw; shared with it. */
static struct seen {
    int n;
    struct {
        char path[120];
        long long range; /* -1: none */
        bool has_token;
    } request[64];
} * seen;

static char err[ERR_BYTES], endpoint[64], weights[WEIGHTS_BYTES], sha256[65], config_sha1[41];
static pid_t server;
static int port;

static void send_all(int fd, const char *data, size_t bytes) {
    while (bytes) {
        ssize_t n = send(fd, data, bytes, MSG_NOSIGNAL);
        if (n <= 0) return;
        data += n, bytes -= (size_t)n;
    }
}

static void send_status(int fd, int status, const char *header) {
    char head[512];
    int n = snprintf(head, sizeof head, "HTTP/1.1 %d X\r\nContent-Length: 4\r\nConnection: close\r\n%s\r\nbody", status,
                     header);
    send_all(fd, head, (size_t)n);
}

static void send_body(int fd, const char *body, size_t bytes, long long range) {
    char head[512], length[64] = "", content_range[100] = "";
    size_t begin = range > 0 && !behaviour.ignore_range ? (size_t)range + behaviour.range_shift : 0;
    if (begin > bytes || (begin && behaviour.refuse_range)) {
        send_status(fd, 416, "");
        return;
    }
    size_t left = bytes - begin, sent = left;
    if (!behaviour.no_length) snprintf(length, sizeof length, "Content-Length: %zu\r\n", left);
    if (begin)
        snprintf(content_range, sizeof content_range, "Content-Range: bytes %zu-%zu/%zu\r\n", begin, bytes - 1, bytes);
    int n = snprintf(head, sizeof head, "HTTP/1.1 %d X\r\nConnection: close\r\n%s%s\r\n", begin ? 206 : 200, length,
                     content_range);
    send_all(fd, head, (size_t)n);
    if (behaviour.cut_after && behaviour.n_cuts && left > behaviour.cut_after) {
        sent = behaviour.cut_after;
        behaviour.n_cuts--;
    }
    send_all(fd, body + begin, sent);
}

static void answer(int fd, const char *path, long long range) {
    char location[200];
    if (!strncmp(path, "/api/", 5)) {
        if (strcmp(path, "/api/models/org/name/revision/main?blobs=true"))
            send_status(fd, 404, "");
        else if (behaviour.list_status)
            send_status(fd, behaviour.list_status, "");
        else {
            snprintf(location, sizeof location, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n",
                     strlen(behaviour.list));
            send_all(fd, location, strlen(location));
            send_all(fd, behaviour.list, strlen(behaviour.list));
        }
    } else if (behaviour.file_status)
        send_status(fd, behaviour.file_status, "");
    else if (!strcmp(path, "/org/name/resolve/main/model.safetensors")) {
        snprintf(location, sizeof location, "Location: http://localhost:%d/storage\r\n", port);
        if (behaviour.location) snprintf(location, sizeof location, "Location: %s\r\n", behaviour.location);
        send_status(fd, 302, location);
    } else if (behaviour.n_unavailable > 0) {
        behaviour.n_unavailable--;
        send_status(fd, 503, "");
    } else if (!strcmp(path, "/storage"))
        send_body(fd, weights, WEIGHTS_BYTES, range);
    else if (strstr(path, "/resolve/main/") && strstr(path, ".json"))
        send_body(fd, CONFIG, strlen(CONFIG), range);
    else
        send_status(fd, 404, "");
}

static void serve(int listener) {
    char request[8192];
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        size_t n = 0;
        if (fd < 0) _exit(1);
        request[0] = 0;
        while (!strstr(request, "\r\n\r\n") && n < sizeof request - 1) {
            ssize_t got = recv(fd, request + n, sizeof request - 1 - n, 0);
            if (got <= 0) break;
            request[n += (size_t)got] = 0;
        }
        char path[120] = "";
        const char *range = strcasestr(request, "\r\nRange: bytes=");
        sscanf(request, "GET %119s", path);
        if (seen->n < 64) {
            snprintf(seen->request[seen->n].path, sizeof path, "%s", path);
            seen->request[seen->n].range = range ? atoll(range + 15) : -1;
            seen->request[seen->n].has_token = strcasestr(request, "\r\nAuthorization: Bearer secret\r\n") != NULL;
        }
        long long first = range ? atoll(range + 15) : -1;
        seen->n++;
        answer(fd, path, first);
        shutdown(fd, SHUT_WR);
        while (recv(fd, request, sizeof request, 0) > 0) {
        }
        close(fd);
    }
}

static void start_server(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert(!bind(listener, (struct sockaddr *)&address, sizeof address) && !listen(listener, 16) &&
              !getsockname(listener, (struct sockaddr *)&address, &bytes));
    port = ntohs(address.sin_port);
    snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%d", port);
    server = fork();
    cr_assert_neq(server, -1);
    if (server == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        serve(listener);
    }
    close(listener);
}

/* ---- around a test ---------------------------------------------------------------------------------------------- */

static void hex_digest(char *hex, const EVP_MD *kind, const void *a, size_t a_bytes, const void *b, size_t b_bytes) {
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned n;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    EVP_DigestInit_ex(context, kind, NULL);
    EVP_DigestUpdate(context, a, a_bytes);
    EVP_DigestUpdate(context, b, b_bytes);
    EVP_DigestFinal_ex(context, bytes, &n);
    EVP_MD_CTX_free(context);
    for (unsigned i = 0; i < n; i++) sprintf(hex + 2 * i, "%02x", bytes[i]);
}

/* The list of a model: config.json, the weights, and whatever else. */
static void make_list(int64_t size, const char *digest, const char *more) {
    snprintf(behaviour.list, sizeof behaviour.list,
             "{\"sha\":\"0\",\"siblings\":[{\"rfilename\":\"config.json\",\"size\":%zu,\"blobId\":\"%s\"},"
             "{\"rfilename\":\"model.safetensors\",\"size\":%lld,\"blobId\":\"%040d\","
             "\"lfs\":{\"sha256\":\"%s\",\"size\":%lld,\"pointerSize\":134}}%s]}",
             strlen(CONFIG), config_sha1, (long long)size, 0, digest, (long long)size, more);
}

static void setup(void) {
    uint32_t x = 1;
    folder_make("test_pull");
    setenv("no_proxy", "*", 1);
    seen = mmap(NULL, sizeof *seen, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(seen, MAP_FAILED);
    for (int i = 0; i < WEIGHTS_BYTES; i++) weights[i] = (char)((x = x * 1664525 + 1013904223) >> 24);
    hex_digest(sha256, EVP_sha256(), weights, WEIGHTS_BYTES, "", 0);
    hex_digest(config_sha1, EVP_sha1(), "blob 9", 7, CONFIG, strlen(CONFIG));
    make_list(WEIGHTS_BYTES, sha256, "");
}

static void teardown(void) {
    if (server > 0) {
        kill(server, SIGKILL);
        waitpid(server, NULL, 0);
    }
    folder_remove();
}

TestSuite(pull, .init = setup, .fini = teardown, .timeout = 60);

static const char *path_of(const char *name) {
    static char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static bool exists(const char *name) {
    return access(path_of(name), F_OK) == 0;
}

static void write_file(const char *name, const void *data, size_t bytes) {
    FILE *f = fopen(path_of(name), "wb");
    cr_assert(f && fwrite(data, 1, bytes, f) == bytes && !fclose(f));
}

static void expect_file(const char *name, const void *data, size_t bytes) {
    static char content[WEIGHTS_BYTES + 1];
    FILE *f = fopen(path_of(name), "rb");
    cr_assert(f, "%s is not there", name);
    cr_expect_eq(fread(content, 1, sizeof content, f), bytes, "%s", name);
    cr_expect_eq(memcmp(content, data, bytes), 0, "%s", name);
    fclose(f);
}

static void expect_model(void) {
    expect_file("config.json", CONFIG, strlen(CONFIG));
    expect_file("model.safetensors", weights, WEIGHTS_BYTES);
    cr_expect(!exists("config.json.part") && !exists("model.safetensors.part"));
}

/* What progress reported of each file, and when it shall say stop. */
static struct {
    int n_calls, n_files;
    int64_t last[8], bytes[8];
    int64_t stop_at;
} told;

static int on_progress(void *user, const char *file, int64_t done, int64_t file_bytes, int file_id, int n_files) {
    cr_assert_eq(user, &told);
    cr_assert(file_id >= 0 && file_id < n_files && n_files <= 8 && *file);
    cr_expect(file_bytes == 0 || done <= file_bytes);
    told.n_calls++;
    told.n_files = n_files;
    told.last[file_id] = done;
    told.bytes[file_id] = file_bytes;
    return told.stop_at && file_bytes == WEIGHTS_BYTES && done >= told.stop_at;
}

static struct pull_options options_for_test(void) {
    return (struct pull_options){
        .repo = "org/name", .endpoint = endpoint, .folder = folder, .progress = on_progress, .user = &told};
}

static int pull(void) {
    struct pull_options options = options_for_test();
    err[0] = 0;
    return model_pull(&options, err, sizeof err);
}

/* How often the weights were asked for, at their storage. */
static int n_weight_requests(void) {
    int n = 0;
    for (int i = 0; i < seen->n; i++) n += !strcmp(seen->request[i].path, "/storage");
    return n;
}

static void expect_sentence(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void expect_sentence(const char *format, ...) {
    char expected[ERR_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(expected, sizeof expected, format, args);
    va_end(args);
    cr_expect_str_eq(err, expected);
}

/* ---- it works --------------------------------------------------------------------------------------------------- */

Test(pull, whole_model) {
    make_list(WEIGHTS_BYTES, sha256,
              ",{\"rfilename\":\"README.md\",\"size\":9},{\"rfilename\":\"pytorch_model.bin\",\"size\":9},"
              "{\"rfilename\":\".gitattributes\",\"size\":9},{\"rfilename\":\"1_Pooling/config a.json\"}");
    start_server();
    strcat(folder, "/new/er"); /* folders are made */
    cr_assert_eq(pull(), 0, "%s", err);
    expect_model();
    expect_file("1_Pooling/config a.json", CONFIG, strlen(CONFIG));
    cr_expect(!exists("README.md") && !exists("pytorch_model.bin") && !exists(".gitattributes"));
    cr_expect_eq(told.n_files, 3);
    cr_expect(told.last[0] == 9 && told.bytes[0] == 9 && told.last[1] == WEIGHTS_BYTES &&
              told.bytes[1] == WEIGHTS_BYTES);
    cr_expect_str_eq(seen->request[4].path, "/org/name/resolve/main/1_Pooling/config%20a.json");
    cr_expect_eq(seen->n, 5, "list, config.json, weights and their redirect, one without a size");

    /* again: what has a digest is checked, not fetched */
    memset(&told, 0, sizeof told);
    cr_assert_eq(pull(), 0, "%s", err);
    cr_expect_eq(seen->n, 7, "the list and the file that has no digest");
    cr_expect_eq(told.last[1], WEIGHTS_BYTES);
    /* and what was damaged is fetched again */
    write_file("config.json", "{\"a\": 2}\n", 9);
    cr_assert_eq(pull(), 0, "%s", err);
    expect_model();
    folder[strlen(folder) - strlen("/new/er")] = 0;
}

Test(pull, connection_cut) {
    behaviour.cut_after = 100000, behaviour.n_cuts = 9;
    start_server();
    cr_assert_eq(pull(), 0, "%s", err);
    expect_model();
    cr_assert_eq(seen->n, 8);
    cr_expect(seen->request[3].range == -1 && seen->request[5].range == 100000 && seen->request[7].range == 200000);
}

Test(pull, connection_cut_without_length) {
    behaviour.cut_after = 100000, behaviour.n_cuts = 9, behaviour.no_length = true;
    start_server();
    cr_assert_eq(pull(), 0, "%s", err);
    expect_model();
    cr_expect_eq(n_weight_requests(), 3);
}

Test(pull, stopped_and_continued) {
    behaviour.cut_after = 100000, behaviour.n_cuts = 1;
    start_server();
    told.stop_at = 1;
    cr_assert_eq(pull(), STATUS_CANCELLED);
    expect_sentence("%s/model.safetensors: stopped; the same command continues where it was", folder);
    cr_expect(!exists("model.safetensors") && exists("model.safetensors.part"));
    struct stat st;
    cr_assert(!stat(path_of("model.safetensors.part"), &st) && st.st_size > 0 && st.st_size <= 100000);
    told.stop_at = 0;
    cr_assert_eq(pull(), 0, "%s", err);
    expect_model();
    cr_expect_eq(seen->request[seen->n - 1].range, st.st_size);
}

Test(pull, complete_part) {
    write_file("model.safetensors.part", weights, WEIGHTS_BYTES);
    start_server();
    cr_assert_eq(pull(), 0, "%s", err);
    expect_model();
    cr_expect_eq(n_weight_requests(), 0);
}

Test(pull, longer_part) {
    static char garbage[WEIGHTS_BYTES + 1];
    write_file("model.safetensors.part", garbage, sizeof garbage);
    start_server();
    cr_assert_eq(pull(), 0, "%s", err);
    expect_model();
}

Test(pull, server_without_range) {
    behaviour.cut_after = 100000, behaviour.n_cuts = 1, behaviour.ignore_range = true;
    start_server();
    cr_assert_eq(pull(), 0, "%s", err);
    expect_model();
    cr_expect_eq(n_weight_requests(), 2);
}

Test(pull, server_refuses_range) {
    behaviour.cut_after = 100000, behaviour.n_cuts = 1, behaviour.refuse_range = true;
    start_server();
    cr_assert_eq(pull(), 0, "%s", err);
    expect_model();
    cr_expect_eq(n_weight_requests(), 3, "cut, 416, from the start");
}

Test(pull, unavailable_for_a_while) {
    behaviour.n_unavailable = 2;
    start_server();
    cr_assert_eq(pull(), 0, "%s", err);
    expect_model();
}

Test(pull, token_stays_with_its_host) {
    start_server();
    struct pull_options options = options_for_test();
    options.token = "secret";
    cr_assert_eq(model_pull(&options, err, sizeof err), 0, "%s", err);
    cr_assert_eq(seen->n, 4);
    cr_expect(seen->request[0].has_token && seen->request[1].has_token && seen->request[2].has_token);
    cr_expect(!seen->request[3].has_token, "the storage is another host");
}

/* ---- it fails --------------------------------------------------------------------------------------------------- */

Test(pull, wrong_hash) {
    char wrong[65];
    snprintf(wrong, sizeof wrong, "%064d", 1);
    make_list(WEIGHTS_BYTES, wrong, "");
    start_server();
    cr_expect_eq(pull(), STATUS_INVALID);
    expect_sentence("%s/model.safetensors: expected SHA-256 %s, found %s; it was thrown away: download it again",
                    folder, wrong, sha256);
    cr_expect(!exists("model.safetensors") && !exists("model.safetensors.part"));
}

Test(pull, wrong_part) {
    write_file("model.safetensors.part", "garbage", 7);
    start_server();
    cr_expect_eq(pull(), STATUS_INVALID);
    cr_expect(strstr(err, "it was thrown away: download it again"), "%s", err);
    cr_assert_eq(pull(), 0, "%s", err);
    expect_model();
}

Test(pull, wrong_git_blob) {
    char right[41];
    strcpy(right, config_sha1);
    snprintf(config_sha1, sizeof config_sha1, "%040d", 7);
    make_list(WEIGHTS_BYTES, sha256, "");
    start_server();
    cr_expect_eq(pull(), STATUS_INVALID);
    expect_sentence("%s/config.json: expected git blob %s, found %s; it was thrown away: download it again", folder,
                    config_sha1, right);
}

Test(pull, too_short) {
    make_list(WEIGHTS_BYTES + 1, sha256, "");
    start_server();
    cr_expect_eq(pull(), STATUS_INVALID);
    expect_sentence("%s/model.safetensors: expected 300001 bytes, found 300000", folder);
    cr_expect(!exists("model.safetensors") && !exists("model.safetensors.part"));
}

Test(pull, too_long) {
    make_list(WEIGHTS_BYTES - 1, sha256, "");
    start_server();
    cr_expect_eq(pull(), STATUS_INVALID);
    expect_sentence("%s/model.safetensors: expected 299999 bytes, found more", folder);
    cr_expect(!exists("model.safetensors") && !exists("model.safetensors.part"));
}

Test(pull, wrong_range) {
    behaviour.cut_after = 100000, behaviour.n_cuts = 1, behaviour.range_shift = 5;
    start_server();
    cr_expect_eq(pull(), STATUS_IO);
    expect_sentence(
        "%s/model.safetensors: expected HTTP 206 with the bytes from 100000 on, found HTTP 206 with bytes from "
        "100005",
        folder);
}

Test(pull, no_such_model) {
    behaviour.list_status = 404;
    start_server();
    cr_expect_eq(pull(), STATUS_NOT_FOUND);
    expect_sentence(
        "%s/api/models/org/name/revision/main?blobs=true: expected HTTP 200, found 404; check the model's name "
        "and revision",
        endpoint);
}

Test(pull, not_public) {
    behaviour.list_status = 401;
    start_server();
    cr_expect_eq(pull(), STATUS_IO);
    expect_sentence(
        "%s/api/models/org/name/revision/main?blobs=true: expected HTTP 200, found 401; the model does not exist "
        "or is not public: check its name, or set HF_TOKEN",
        endpoint);
}

Test(pull, no_such_file) {
    behaviour.file_status = 404;
    start_server();
    cr_expect_eq(pull(), STATUS_NOT_FOUND);
    expect_sentence(
        "%s/org/name/resolve/main/config.json: expected HTTP 200, found 404; check the model's name and revision",
        endpoint);
}

Test(pull, unavailable) {
    behaviour.file_status = 503;
    start_server();
    cr_expect_eq(pull(), STATUS_IO);
    expect_sentence("%s/org/name/resolve/main/config.json: expected HTTP 200, found 503", endpoint);
    cr_expect_eq(seen->n, 7, "the list and six attempts");
}

Test(pull, evil_names) {
    static const char *const evil[] = {
        "../../evil", "/etc/evil.json", "a/../../evil.json", "..", "a//b.json", "./a.json", "a/", "a\\\\b.json", ""};
    static const char *const shown[] = {
        "../../evil", "/etc/evil.json", "a/../../evil.json", "..", "a//b.json", "./a.json", "a/", "a\\b.json", ""};
    for (size_t i = 0; i < sizeof evil / sizeof *evil; i++) {
        char more[128];
        snprintf(more, sizeof more, ",{\"rfilename\":\"%s\",\"size\":9}", evil[i]);
        make_list(WEIGHTS_BYTES, sha256, more);
        start_server();
        cr_expect_eq(pull(), STATUS_INVALID, "%s", evil[i]);
        expect_sentence(
            "org/name: file list: expected names inside the model's folder, found \"%s\"; nothing was downloaded",
            shown[i]);
        cr_expect_eq(seen->n, (int)i + 1, "the list and nothing else");
        cr_expect(!exists("config.json"));
        kill(server, SIGKILL);
        waitpid(server, NULL, 0);
    }
    server = 0;
}

Test(pull, bad_lists) {
    static const struct {
        const char *list, *sentence;
        int status;
    } bad[] = {
        {"<html>", "org/name: file list: invalid JSON at byte 0: expected a value, found '<'", STATUS_INVALID},
        {"{}", "org/name: file list: siblings: expected an array of at most 4096 files, found nothing", STATUS_INVALID},
        {"{\"siblings\":[{\"rfilename\":7}]}", "org/name: file list: rfilename: expected a string, found 7",
         STATUS_INVALID},
        {"{\"siblings\":[{\"rfilename\":\"a.json\",\"size\":-1}]}",
         "org/name: file list: a.json: size: expected an integer from 0 to 9223372036854775807, found -1",
         STATUS_INVALID},
        {"{\"siblings\":[{\"rfilename\":\"a.json\",\"size\":1,\"lfs\":{\"size\":1}}]}",
         "org/name: file list: a.json: expected the SHA-256 of a large file, found none", STATUS_INVALID},
        {"{\"siblings\":[{\"rfilename\":\"README.md\"}]}",
         "org/name: expected *.json, *.safetensors, *.txt or *.jinja in its 1 files, found none", STATUS_NOT_FOUND},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        strcpy(behaviour.list, bad[i].list);
        start_server();
        cr_expect_eq(pull(), bad[i].status, "%s", bad[i].list);
        cr_expect_str_eq(err, bad[i].sentence);
        kill(server, SIGKILL);
        waitpid(server, NULL, 0);
    }
    server = 0;
}

Test(pull, redirects) {
    behaviour.location = "file:///etc/passwd";
    start_server();
    cr_expect_eq(pull(), STATUS_IO);
    cr_expect(
        strstr(err, "/org/name/resolve/main/model.safetensors: cannot be fetched: Protocol \"file\" not supported"),
        "%s", err);
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    behaviour.location = "/org/name/resolve/main/model.safetensors";
    start_server();
    cr_expect_eq(pull(), STATUS_IO);
    cr_expect(strstr(err, "cannot be fetched: Maximum (8) redirects followed"), "%s", err);
}

Test(pull, two_at_once) {
    write_file("model.safetensors.part", "", 0);
    int fd = open(path_of("model.safetensors.part"), O_RDWR);
    cr_assert(fd >= 0 && !flock(fd, LOCK_EX));
    start_server();
    cr_expect_eq(pull(), STATUS_BUSY);
    expect_sentence("%s/model.safetensors.part: another download is writing it", folder);
    close(fd);
}

Test(pull, nobody_listens) {
    start_server();
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    server = 0;
    cr_expect_eq(pull(), STATUS_IO);
    cr_expect(
        strstr(err, "/api/models/org/name/revision/main?blobs=true: cannot be fetched: Failed to connect to 127.0.0.1"),
        "%s", err);
}

Test(pull, folder_cannot_be_made) {
    start_server();
    struct pull_options options = options_for_test();
    options.folder = "/proc/nothing/here";
    cr_expect_eq(model_pull(&options, err, sizeof err), STATUS_IO);
    cr_expect_str_eq(err, "/proc/nothing: cannot be created: No such file or directory");
}

Test(pull, options) {
    static const struct {
        const char *repo, *revision, *endpoint, *token, *sentence;
    } bad[] = {
        {"../x", NULL, NULL, NULL, "expected a model name like Qwen/Qwen3-0.6B, found \"../x\""},
        {"a/b/c", NULL, NULL, NULL, "expected a model name like Qwen/Qwen3-0.6B, found \"a/b/c\""},
        {"a/b?x", NULL, NULL, NULL, "expected a model name like Qwen/Qwen3-0.6B, found \"a/b?x\""},
        {"a/b", "", NULL, NULL, "expected a branch, tag or commit, found revision \"\""},
        {"a/b", "../x", NULL, NULL, "expected a branch, tag or commit, found revision \"../x\""},
        {"a/b", "x y", NULL, NULL, "expected a branch, tag or commit, found revision \"x y\""},
        {"a/b", NULL, "ftp://x", NULL, "expected an endpoint like https://huggingface.co, found \"ftp://x\""},
        {"a/b", NULL, "http://example.com", "t",
         "expected https for an endpoint that gets the token, found \"http://example.com\"; a token is not sent in the "
         "clear"},
        {"a/b", NULL, "http://localhost.example.com", "t",
         "expected https for an endpoint that gets the token, found \"http://localhost.example.com\"; a token is not "
         "sent in "
         "the clear"},
        {"a/b", NULL, NULL, "a\r\nb", "expected a token of printable characters, found others; check HF_TOKEN"},
        {"a/b", NULL, NULL, "", "expected a token of printable characters, found others; check HF_TOKEN"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct pull_options options = {.repo = bad[i].repo,
                                       .revision = bad[i].revision,
                                       .endpoint = bad[i].endpoint,
                                       .token = bad[i].token,
                                       .folder = folder};
        cr_expect_eq(model_pull(&options, err, sizeof err), STATUS_INVALID);
        cr_expect_str_eq(err, bad[i].sentence);
    }
}
