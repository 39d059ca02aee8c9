export default {
  extensions: ['ts'], // Node strips the types itself
  files: ['tests/**/*.test.ts'],
  workerThreads: false, // a process for each file: signals, umask and memory are its own
  timeout: '6m', // of silence; single tests have limits of their own
}
