"""The native code under the sanitizer of threads, without torch: its drivers, and their build."""
