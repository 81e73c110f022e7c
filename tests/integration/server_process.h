// longdoc-server as a process of its own: flags, log lines, signals, exit code.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace longdoc::testing {

class ServerProcess {
 public:
  // Starts the binary of this build with `flags`. `confined`: without any environment variable, in
  // a directory that is not there any more, and ended by SIGXFSZ when it writes to a file.
  explicit ServerProcess(const std::vector<std::string>& flags, bool confined = false);
  // The same with another binary.
  ServerProcess(const std::vector<std::string>& flags, const std::string& binary,
                bool confined = false);
  ~ServerProcess();  // kills it if it still runs
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  // Reads the log until a line with this event; false when the log ends before or after a minute.
  bool WaitForEvent(const std::string& event);
  // An integer field of the line that WaitForEvent found.
  int IntField(const std::string& key) const;
  void Signal(int number);
  // Waits for the end; the exit code, or -signal. All output is in output() then.
  int Wait();
  pid_t pid() const { return pid_; }
  const std::string& output() const { return output_; }  // standard output and error

 private:
  bool ReadMore();

  pid_t pid_ = -1;
  int pipe_ = -1;
  std::string output_;
  size_t seen_ = 0;  // end of the last line that WaitForEvent looked at
  std::string line_;
};

}  // namespace longdoc::testing
