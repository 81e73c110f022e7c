// A bare HTTP client for tests of the metrics port.
#pragma once

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace longdoc::testing {

struct HttpReply {
  int status = 0;  // 0: no answer
  std::string head, body;
};

// A connected socket to 127.0.0.1:port, or -1.
inline int ConnectTo(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0) return fd;
  close(fd);
  return -1;
}

// Sends `request` as it is to 127.0.0.1:port and reads until the server closes.
inline HttpReply HttpRaw(int port, const std::string& request) {
  HttpReply reply;
  const int fd = ConnectTo(port);
  if (fd < 0) return reply;
  std::string text;
  if (send(fd, request.data(), request.size(), MSG_NOSIGNAL) ==
      static_cast<ssize_t>(request.size())) {
    char buffer[16384];
    ssize_t n;
    while ((n = read(fd, buffer, sizeof(buffer))) > 0) text.append(buffer, static_cast<size_t>(n));
  }
  close(fd);
  const size_t end = text.find("\r\n\r\n");
  if (end == std::string::npos || text.rfind("HTTP/1.1 ", 0) != 0) return reply;
  reply.status = std::atoi(text.c_str() + 9);
  reply.head = text.substr(0, end);
  reply.body = text.substr(end + 4);
  return reply;
}

inline HttpReply HttpGet(int port, const std::string& path, const std::string& method = "GET") {
  return HttpRaw(port, method + " " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n");
}

}  // namespace longdoc::testing
