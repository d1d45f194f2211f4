/* upload.cu - a checkpoint to the device at the speed of the link.
 *
 * The pages of a mapped file cannot be read by the copy engine, and one thread that copies them into pinned memory is
 * slower than the link. So a few threads each take the next piece, copy it into one of their two pinned buffers and
 * enqueue it on a stream of their own, while the buffer before it is still on its way. */
#include "kernels/cuda/cuda.cuh"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_THREADS = 16,     /* of 5 GB/s each, which the faults of a fresh mapping leave: 39 GB/s, with 12 34 */
    PIECE_BYTES = 1 << 20 /* two a thread: pinning memory is slow (1.7 GB/s), so little of it */
};

struct upload {
    const struct transfer *transfers;
    size_t n;
    int device;
    pthread_mutex_t mutex;
    size_t next, offset; /* of the first piece that nobody has taken; under mutex */
    cudaError_t status;  /* first failure; under mutex */
};

/* Takes the next piece of at most PIECE_BYTES; false when there is none or something failed. */
static bool take(struct upload *u, struct transfer *piece) {
    pthread_mutex_lock(&u->mutex);
    while (u->next < u->n && u->offset == u->transfers[u->next].bytes) u->next++, u->offset = 0;
    const bool there_is = u->next < u->n && u->status == cudaSuccess;
    if (there_is) {
        const struct transfer *t = &u->transfers[u->next];
        piece->device = (char *)t->device + u->offset;
        piece->host = (const char *)t->host + u->offset;
        piece->bytes = t->bytes - u->offset < PIECE_BYTES ? t->bytes - u->offset : PIECE_BYTES;
        u->offset += piece->bytes;
    }
    pthread_mutex_unlock(&u->mutex);
    return there_is;
}

static void *work(void *arg) {
    struct upload *u = (struct upload *)arg;
    cudaStream_t stream = NULL;
    cudaEvent_t done[2] = {NULL, NULL};
    char *pinned = NULL;
    struct transfer piece;
    cudaError_t status = cudaSetDevice(u->device);
    if (status == cudaSuccess) status = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    if (status == cudaSuccess) status = cudaHostAlloc((void **)&pinned, 2 * (size_t)PIECE_BYTES, cudaHostAllocDefault);
    for (int i = 0; i < 2 && status == cudaSuccess; i++)
        status = cudaEventCreateWithFlags(&done[i], cudaEventDisableTiming);
    for (int i = 0; status == cudaSuccess && take(u, &piece); i ^= 1) {
        char *buffer = pinned + (size_t)i * PIECE_BYTES;
        status = cudaEventSynchronize(done[i]); /* the transfer before last has left this buffer */
        if (status != cudaSuccess) break;
        memcpy(buffer, piece.host, piece.bytes);
        status = cudaMemcpyAsync(piece.device, buffer, piece.bytes, cudaMemcpyHostToDevice, stream);
        if (status == cudaSuccess) status = cudaEventRecord(done[i], stream);
    }
    if (status == cudaSuccess) status = cudaStreamSynchronize(stream);
    for (int i = 0; i < 2; i++)
        if (done[i]) cudaEventDestroy(done[i]);
    if (pinned) cudaFreeHost(pinned);
    if (stream) cudaStreamDestroy(stream);
    pthread_mutex_lock(&u->mutex);
    if (u->status == cudaSuccess) u->status = status;
    pthread_mutex_unlock(&u->mutex);
    return NULL;
}

void cuda__upload_all(struct exec *e, const struct transfer *transfers, size_t n) {
    struct cuda_state *s = cuda_of(e);
    struct upload u = {.transfers = transfers, .n = n, .device = s->device};
    pthread_t threads[MAX_THREADS];
    int n_threads = 0, wanted = e->options.n_threads < MAX_THREADS ? e->options.n_threads : MAX_THREADS;
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++) bytes += transfers[i].bytes;
    if ((size_t)wanted > bytes / PIECE_BYTES + 1) wanted = (int)(bytes / PIECE_BYTES + 1);
    CUDA_TRY(e, cudaStreamSynchronize(s->stream)); /* what the exec's stream still does with this memory comes first */
    pthread_mutex_init(&u.mutex, NULL);
    for (; n_threads < wanted - 1; n_threads++)
        if (pthread_create(&threads[n_threads], NULL, work, &u)) break;
    work(&u); /* the caller takes part, so all is copied even if no thread could be started */
    for (int i = 0; i < n_threads; i++) pthread_join(threads[i], NULL);
    pthread_mutex_destroy(&u.mutex);
    CUDA_TRY(e, u.status);
}
