//! epoll, timerfd, signalfd and eventfd.
