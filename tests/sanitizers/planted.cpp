// Errors on purpose, which the sanitizers must report.

extern "C" float read_past_end(const float* data, long size) { return data[size]; }

extern "C" int overflow(int value) { return value + 1; }

extern "C" long truncate(float value) { return static_cast<int>(value); }

extern "C" float read(const float* data) { return *data; }

extern "C" int use_after_scope(int value) {
  volatile int* kept;
  {
    volatile int mine = value;
    kept = &mine;
  }
  return *kept;
}
