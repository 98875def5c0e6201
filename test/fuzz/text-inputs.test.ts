/** What people, scripts and registries say in a line. */
import {fuzz} from './fuzzer.ts';

fuzz('reference', 1500);
fuzz('filters', 400);
fuzz('challenge', 1500);
fuzz('hosts', 600);
