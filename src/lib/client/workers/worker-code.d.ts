/** Made by scripts/build.ts: thread.ts with all that it imports, as one script. */
declare module 'berth:worker-code' {
  const code: string;
  export default code;
}
