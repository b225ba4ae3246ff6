// SPDX-License-Identifier: Apache-2.0
#pragma once

// Small facts about file descriptors that others made.

#include <string>

namespace ep::exports {

/// An eventfd, which cannot block a reactor once it is non-blocking: a file, pipe or socket in its
/// place could.
bool is_eventfd(int fd);

/// A duplicate that children do not inherit, or -1.
int duplicate(int fd);

/// The connected (or, with `listening`, the listening) socket of this process that is bound to
/// `path`, or -1. rte_vhost accepts sockets itself and does not tell which. Of several connected
/// ones it is one whose peer has not closed.
int find_socket(const std::string& path, bool listening);

/// The peer of a connected socket has closed it.
bool is_hung_up(int socket);

/// Reading from and writing to this socket gives up after `seconds`: half a message must not hold
/// the library's only event thread.
void limit_socket_waits(int socket, int seconds);

void close_on_exec(int fd);

}  // namespace ep::exports
