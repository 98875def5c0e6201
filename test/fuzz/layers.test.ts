/** Fuzzes inflating, reading and extracting layers. */
import {fuzz} from './fuzzer.ts';

fuzz('tar', 1000);
fuzz('inflate', 300);
fuzz('erofs', 1000);
if (process.getuid?.() === 0) fuzz('apply', 100);
