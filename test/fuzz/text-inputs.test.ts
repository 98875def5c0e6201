/** Fuzzes single-line texts of users, scripts and registries. */
import {fuzz} from './fuzzer.ts';

fuzz('reference', 1500);
fuzz('filters', 400);
fuzz('challenge', 1500);
fuzz('hosts', 600);
