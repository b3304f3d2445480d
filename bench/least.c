/* The least that commits a payment before it answers: HTTP at a unix socket, one INSERT for each POST, what comes in one turn
 * of the loop in one commit, sent to PostgreSQL at once, and 202. It looks nothing up, claims, charges and settles nothing,
 * believes its input, and ends at the first error. Whatever commits before it answers has this to do, in one way or another.
 *
 * usage: least SOCKET CONNINFO
 */
#define _GNU_SOURCE
#include <errno.h>
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { CLIENTS = 4096, REQUEST = 16384, OPEN = 65536, EVENTS = 256 };

static const char INSERT[] = "INSERT INTO payment_queue (correlation_id, amount) VALUES ($1::uuid, $2::numeric)";
static const char ACCEPTED[] = "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n";
static const char OK[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/* What each client has sent and was not handled yet. */
static struct { char bytes[REQUEST + 1]; int length; } client[CLIENTS];
/* Clients that wait for a commit, in the order of their INSERTs: of those from `first` on, those before `done` are inserted. */
static int waiting[OPEN];
static unsigned first, done, last;
static PGconn *database;
static int epoll, sent;

static void fail(const char *what)
{
    fprintf(stderr, "least: %s: %s%s\n", what, strerror(errno), PQerrorMessage(database));
    exit(1);
}

static void watch(int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (fd >= CLIENTS || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) fail("watch");
}

static void answer(int fd, const char *text)
{
    if (send(fd, text, strlen(text), MSG_NOSIGNAL) < 0 && errno != EPIPE) fail("answer");
}

/* The text of a field of a JSON object, without quotes. */
static const char *field(const char *body, const char *name, char *value, size_t size)
{
    const char *at = strstr(body, name);
    if (!at) fail("a body without a field");
    at += strlen(name) + strspn(at + strlen(name), "\": ");
    size_t length = strcspn(at, "\",} ");
    if (length >= size) fail("a long field");
    memcpy(value, at, length);
    value[length] = 0;
    return value;
}

/* Sends an INSERT for each POST that is there as a whole. */
static void handle(int fd)
{
    char *bytes = client[fd].bytes, id[40], amount[40];
    for (;;) {
        bytes[client[fd].length] = 0;
        char *body = strstr(bytes, "\r\n\r\n"), *length = strcasestr(bytes, "\r\ncontent-length:");
        if (!body) return;
        body += 4;
        int whole = body - bytes + (length && length < body ? atoi(length + 17) : 0);
        if (client[fd].length < whole) return;
        if (bytes[0] == 'P') {
            const char *values[] = {field(body, "\"correlationId\"", id, sizeof id), field(body, "\"amount\"", amount, sizeof amount)};
            if (last - first == OPEN || !PQsendQueryPrepared(database, "insert", 2, values, NULL, NULL, 0)) fail("send");
            waiting[last++ % OPEN] = fd;
            sent = 1;
        } else {
            answer(fd, OK);
        }
        client[fd].length -= whole;
        memmove(bytes, bytes + whole, client[fd].length);
    }
}

static void receive(int fd)
{
    int length = read(fd, client[fd].bytes + client[fd].length, REQUEST - client[fd].length);
    if (length <= 0) {
        close(fd);
        return;
    }
    client[fd].length += length;
    handle(fd);
}

/* Answers those whose payments are committed. */
static void commit(void)
{
    if (!PQconsumeInput(database)) fail("receive");
    /* Each INSERT ends with a NULL, and so does all. */
    for (int ends = 0; first != last && ends < 2 && !PQisBusy(database);) {
        PGresult *result = PQgetResult(database);
        ends = result ? 0 : ends + 1;
        if (!result) continue;
        switch (PQresultStatus(result)) {
        case PGRES_COMMAND_OK: done++; break;
        case PGRES_PIPELINE_SYNC: while (first != done) answer(waiting[first++ % OPEN], ACCEPTED); break;
        default: fail("insert");
        }
        PQclear(result);
    }
}

int main(int count, char **words)
{
    struct sockaddr_un place = {.sun_family = AF_UNIX};
    if (count != 3 || strlen(words[1]) >= sizeof place.sun_path) {
        fprintf(stderr, "usage: least SOCKET CONNINFO\n");
        return 2;
    }
    strcpy(place.sun_path, words[1]);
    database = PQconnectdb(words[2]);
    PGresult *prepared = PQprepare(database, "insert", INSERT, 2, NULL);
    if (PQresultStatus(prepared) != PGRES_COMMAND_OK) fail("prepare");
    PQclear(prepared);
    if (PQsetnonblocking(database, 1) || !PQenterPipelineMode(database)) fail("pipeline");

    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    unlink(words[1]);
    if (bind(listener, (void *)&place, sizeof place) || chmod(words[1], 0777) || listen(listener, CLIENTS)) fail("listen");
    epoll = epoll_create1(0);
    watch(listener);
    watch(PQsocket(database));
    for (;;) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                int next = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (next < 0) continue;
                watch(next);
                client[next].length = 0;
            } else if (fd == PQsocket(database)) {
                commit();
            } else {
                receive(fd);
            }
        }
        if (sent && (!PQpipelineSync(database) || PQflush(database) < 0)) fail("commit");
        sent = 0;
    }
}
