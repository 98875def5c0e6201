/** thread.ts and its imports as one script, made by scripts/build.ts. */
declare module 'berth:worker-code' {
  const code: string;
  export default code;
}
